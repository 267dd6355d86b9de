{{- /* Autoscaler by queue length: (dict "root" "name" "spec" "full"). */ -}}
{{- define "fleet.autoscaler" -}}
{{- $scale := .spec.autoscaling -}}
{{- $metric := default (printf "bem_%s_requests_waiting" .name) $scale.metric -}}
{{- $target := dict "apiVersion" "apps/v1" "kind" "Deployment" "name" .full -}}
{{- if include "fleet.isMission" (list .root .spec) -}}
{{- $target = dict "apiVersion" "fleet.bem.dev/v1alpha1" "kind" "Mission" "name" .name -}}
{{- end -}}
{{- if eq $scale.kind "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .full }}
  labels: {{- include "fleet.labels" (list .root .name) | nindent 4 }}
spec:
  scaleTargetRef: {{- toYaml $target | nindent 4 }}
  minReplicas: {{ $scale.minReplicas }}
  maxReplicas: {{ $scale.maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric: {name: {{ $metric }}}
        target: {type: AverageValue, averageValue: {{ $scale.queueDepth | quote }}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 300}
{{- else -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ .full }}
  labels: {{- include "fleet.labels" (list .root .name) | nindent 4 }}
spec:
  scaleTargetRef: {{- toYaml $target | nindent 4 }}
  minReplicaCount: {{ $scale.minReplicas }}
  maxReplicaCount: {{ $scale.maxReplicas }}
  triggers:
    - type: prometheus
      metadata:
        serverAddress: {{ $scale.prometheus }}
        query: sum({{ $metric }}{namespace="{{ .root.Release.Namespace }}",pod=~"{{ .full }}-.*"})
        threshold: {{ $scale.queueDepth | quote }}
{{- end }}
{{- end }}
