//go:build tools

// Package cluster pins the tools that are built as they come.
package cluster

import _ "helm.sh/helm/v4/cmd/helm"
