"""Worker processes that turn prediction streams into panes and measured events, and the supervisor that keeps them up."""
