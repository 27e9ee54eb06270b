"""The only code that talks to services. Each raises the ClientError tree, from the original."""
