{{- /* Pod fields that the pod security standard "restricted" requires. */ -}}
{{- define "fleet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Container fields that the pod security standard "restricted" requires. */ -}}
{{- define "fleet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Preferred topology spread over nodes and zones: (list root component). */ -}}
{{- define "fleet.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "fleet.selector" $ | nindent 6 }}
  # Pods of a canary and of an older template do not count: they go.
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{- /* Text of a value: helm reads numbers as floats, and 2097152 must not become 2.097152e+06. */ -}}
{{- define "fleet.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* Environment variables of settings: (list root prefix settings). */ -}}
{{- define "fleet.settingsEnv" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}
{{- range $key, $value := index . 2 }}
{{- if has $key (list "ADDRESS" "REDIS_URL" "DRAIN_S" "METRICS_ADDRESS" "PAGES_ADDRESS" "UPSTREAM" "CACHE" "BACKBONE" "TLS" "TLS_MODE" "TLS_FOLDER" "HEALTH_ADDRESS" "KEYS_FILE" "SERVICE_KEY_FILE" "OTLP_ENDPOINT" "TRACE_RATIO" (ternary "AUDIT_KEY_FILE" "" (eq $prefix "SAFETY"))) }}
{{- fail (printf "settings.%s of %s is set by the chart: use port, metricsPort, drainSeconds, model, tls, access, redis or tracing instead" $key (lower $prefix)) }}
{{- end }}
{{- with tpl (include "fleet.text" $value) $root }}
- name: BEM_{{ $prefix }}_{{ $key }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fleet.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Where pods may run: their own fields over those of all pods: (list root own). Keys of own:
       nodeSelector, tolerations, affinity. */ -}}
{{- define "fleet.placement" -}}
{{- $all := (index . 0).Values.placement -}}{{- $own := index . 1 -}}
{{- with mergeOverwrite (deepCopy $all.nodeSelector) ($own.nodeSelector | default dict) }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat ($own.tolerations | default list) $all.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Ports of the API server, as a list of a NetworkPolicy. */ -}}
{{- define "fleet.apiPorts" -}}
{{- range .Values.networkPolicy.apiServerPorts }}
- {port: {{ . }}}
{{- end }}
{{- end }}

{{- /* Labels of pods: (list root component). */ -}}
{{- define "fleet.podLabels" -}}
{{ include "fleet.labels" . }}
{{- with (index . 0).Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
