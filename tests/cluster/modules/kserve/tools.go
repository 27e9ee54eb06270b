//go:build tools

// Names what is built of KServe, so that `go mod tidy` keeps all that it needs in go.mod and go.sum.
package tools

import (
	_ "github.com/kserve/kserve/cmd/manager"
)
