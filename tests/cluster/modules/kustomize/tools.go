//go:build tools

// Names what is built of kustomize, so that `go mod tidy` keeps all that it needs in go.mod and go.sum.
package tools

import (
	_ "sigs.k8s.io/kustomize/kustomize/v5"
)
