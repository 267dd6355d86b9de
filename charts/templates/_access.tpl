{{- /* Name of the Secret with the keys. */ -}}
{{- define "fleet.accessSecret" -}}
{{- default (printf "%s-access" (include "fleet.fullname" .)) .Values.access.existingSecret -}}
{{- end }}

{{- /* Key of a name: that of the installed Secret, else one derived from the seed, else a new one:
       (list root name data). */ -}}
{{- define "fleet.key" -}}
{{- $name := index . 1 -}}{{- $known := index (index . 2) (printf "%s.key" $name) -}}{{- $seed := (index . 0).Values.keys.seed -}}
{{- if $known -}}{{- $known | b64dec -}}
{{- else if $seed -}}bem_{{- printf "access/%s/%s" $name $seed | sha256sum -}}
{{- else -}}bem_{{- randAlphaNum 43 -}}{{- end -}}
{{- end }}

{{- /* Volume with the hashes of all keys, and the own key of a service that calls others: (list root name spec). */ -}}
{{- define "fleet.accessVolume" -}}
{{- $items := list (dict "key" "keys.yaml" "path" "keys.yaml") -}}
{{- if not (index . 2).sidecar -}}
{{- $items = append $items (dict "key" (printf "%s.key" (index . 1)) "path" "service.key") -}}
{{- end -}}
- name: access
  secret:
    secretName: {{ include "fleet.accessSecret" (index . 0) }}
    items: {{- toYaml $items | nindent 6 }}
    defaultMode: 288
{{- end }}
