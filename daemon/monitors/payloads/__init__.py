"""Predictions as KServe's payload logger tells them: requests and responses, each a CloudEvent of its own."""
