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
{{- end }}
{{- end }}

{{- /* Environment variable with the URL of Redis: (list root prefix). */ -}}
{{- define "fleet.redisEnv" -}}
{{- $root := index . 0 -}}{{- $redis := $root.Values.redis -}}
{{- if $redis.embedded -}}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "fleet.fullname" $root }}-redis, key: password}}
- name: BEM_{{ index . 1 }}_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "fleet.fullname" $root }}-redis.{{ $root.Release.Namespace }}.svc:6379/0
{{- else if $redis.external.existingSecret -}}
- name: BEM_{{ index . 1 }}_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $redis.external.existingSecret }}, key: url}}
{{- else -}}
- name: BEM_{{ index . 1 }}_REDIS_URL
  value: {{ required "redis.embedded is false: set redis.external.url or redis.external.existingSecret" $redis.external.url }}
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
{{- if has $key (list "ADDRESS" "REDIS_URL" "DRAIN_S" "METRICS_ADDRESS" "PAGES_ADDRESS" "UPSTREAM" "CACHE" "BACKBONE" "TLS" "KEYS_FILE" "SERVICE_KEY_FILE") }}
{{- fail (printf "settings.%s of %s is set by the chart: use port, metricsPort, drainSeconds, model, tls, access or redis instead" $key (lower $prefix)) }}
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
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
