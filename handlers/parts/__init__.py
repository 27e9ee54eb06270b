"""What several verbs share: jobs from templates, pins and shifts of traffic, the watch over guards."""
