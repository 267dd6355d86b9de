{{- /* Name of the Secret with the keys. */ -}}
{{- define "fleet.keysSecret" -}}
{{- default (printf "%s-keys" (include "fleet.fullname" .)) .Values.access.existingSecret -}}
{{- end }}

{{- /* Key of a name: that of the installed Secret, else one derived from the seed, else a new one:
       (list root name data). */ -}}
{{- define "fleet.key" -}}
{{- $name := index . 1 -}}{{- $known := index (index . 2) (printf "%s.key" $name) -}}{{- $seed := (index . 0).Values.access.seed -}}
{{- if $known -}}{{- $known | b64dec -}}
{{- else if $seed -}}bem_{{- printf "%s/%s" $name $seed | sha256sum -}}
{{- else -}}bem_{{- randAlphaNum 43 -}}{{- end -}}
{{- end }}

{{- /* Volume with the hashes of all keys, and the own key of a service that calls others: (list root name spec). */ -}}
{{- define "fleet.keysVolume" -}}
{{- $items := list (dict "key" "keys.yaml" "path" "keys.yaml") -}}
{{- if not (index . 2).sidecar -}}
{{- $items = append $items (dict "key" (printf "%s.key" (index . 1)) "path" "service.key") -}}
{{- end -}}
- name: keys
  secret:
    secretName: {{ include "fleet.keysSecret" (index . 0) }}
    items: {{- toYaml $items | nindent 6 }}
    defaultMode: 288
{{- end }}
