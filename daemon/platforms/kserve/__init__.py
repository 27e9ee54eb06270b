"""KServe: what is the next safe write. Everything here is pure; `kubernetes_serving` reads and writes."""
