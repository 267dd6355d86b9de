{{- /* Settings of the collector of traces, or nothing: (list root prefix). */ -}}
{{- define "fleet.tracingEnv" -}}
{{- with (index . 0).Values.tracing }}
{{- if .endpoint -}}
- {name: BEM_{{ index $ 1 }}_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: BEM_{{ index $ 1 }}_TRACE_RATIO, value: {{ .ratio | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* Rule of a NetworkPolicy that lets spans out to the collector, or nothing. */ -}}
{{- define "fleet.tracingEgress" -}}
{{- with .Values.tracing.endpoint -}}
- ports: [{port: {{ regexFind "[0-9]+$" . }}}]
  {{- with $.Values.networkPolicy.tracingNamespace }}
  to:
    - namespaceSelector:
        matchLabels: {{- toYaml . | nindent 10 }}
  {{- end }}
{{- end }}
{{- end }}
