{{- /* Not empty if a service may have no pods: (list root name spec). */ -}}
{{- define "fleet.mayBeIdle" -}}
{{- $openai := dig "gateway" "settings" "OPENAI_MISSION" "router" ((index . 0).Values.services | toJson | fromJson) -}}
{{- if and (index . 2).sidecar (ne (index . 1) $openai) -}}true{{- end -}}
{{- end }}

{{- /* JSON list of the missions that may have no pods, or nothing. */ -}}
{{- define "fleet.idleMissions" -}}
{{- $found := list -}}
{{- range $name, $address := include "fleet.missions" . | fromJson -}}
{{- $scale := (include "fleet.spec" (list $ $name) | fromYaml).autoscaling -}}
{{- if and $scale.enabled (eq (int $scale.minReplicas) 0) -}}{{- $found = append $found $name -}}{{- end -}}
{{- end -}}
{{- if $found -}}{{- toJson $found -}}{{- end -}}
{{- end }}

{{- /* Autoscaler by queue length: (dict "root" "name" "spec" "full"). */ -}}
{{- define "fleet.autoscaler" -}}
{{- $scale := .spec.autoscaling -}}
{{- $metric := default (printf "bem_%s_requests_waiting" .name) $scale.metric -}}
{{- if and (eq (int $scale.minReplicas) 0) (not (include "fleet.mayBeIdle" (list .root .name .spec))) -}}
{{- fail (printf "services.%s.autoscaling.minReplicas: 0 is for missions that the gateway holds calls for, and not for the one behind its OpenAI routes; at least 1 here" .name) -}}
{{- end -}}
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
    {{- if eq (int $scale.minReplicas) 0 }}
    # The greatest over the gateway's pods: 1 while the mission is wanted.
    - type: External
      external:
        metric:
          name: bem_gateway_mission_wanted
          selector: {matchLabels: {mission: {{ .name }}}}
        target: {type: AverageValue, averageValue: "1"}
    {{- end }}
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
    {{- if eq (int $scale.minReplicas) 0 }}
    - type: prometheus
      metadata:
        serverAddress: {{ $scale.prometheus }}
        query: max(bem_gateway_mission_wanted{namespace="{{ .root.Release.Namespace }}",mission="{{ .name }}"})
        threshold: "1"
    {{- end }}
{{- end }}
{{- end }}
