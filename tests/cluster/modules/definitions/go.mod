module driftd.test/cluster/definitions

go 1.26.0

require (
	github.com/argoproj/argo-workflows/v3 v3.7.3
	github.com/kserve/kserve v0.16.0
	github.com/kubeflow/katib v0.19.0
	github.com/kubeflow/trainer/v2 v2.0.0
	github.com/kubeflow/training-operator v1.8.1
	knative.dev/serving v0.44.0
	sigs.k8s.io/gateway-api v1.2.1
	sigs.k8s.io/jobset v0.8.2
)
