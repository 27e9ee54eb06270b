"""The story that `make run` plays: from prediction logs to a promoted model, and two bad ones rolled back."""
