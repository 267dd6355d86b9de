{{- /* Name of the Secret with the keys. */ -}}
{{- define "fleet.accessSecret" -}}
{{- default (printf "%s-access" (include "fleet.fullname" .)) .Values.access.existingSecret -}}
{{- end }}

{{- /* Key of a name that is derived from the seed: (list root name). */ -}}
{{- define "fleet.key" -}}
bem_{{- printf "access/%s/%s" (index . 1) (index . 0).Values.keys.seed | sha256sum -}}
{{- end }}

{{- /* Role by name of each key of the chart, as YAML. */ -}}
{{- define "fleet.accessRoles" -}}
{{- $root := . -}}{{- $roles := dict "operator" "operator" "user" "user" -}}
{{- range $service, $own := .Values.services -}}
{{- $spec := include "fleet.spec" (list $root $service) | fromYaml -}}
{{- if and $spec.enabled (not $spec.sidecar) -}}{{- $_ := set $roles $service $spec.keyRole -}}{{- end -}}
{{- end -}}
{{- range .Values.access.keys -}}
{{- if hasKey $roles .name }}{{ fail (printf "access.keys: %s is a key of the chart; choose another name" .name) }}{{ end -}}
{{- end -}}
{{- toYaml $roles -}}
{{- end }}

{{- /* Volume with the hashes of all keys, and the own key of a service that calls others: (list root name spec). */ -}}
{{- define "fleet.accessVolume" -}}
{{- $items := list (dict "key" "keys.yaml" "path" "keys.yaml") -}}
{{- if not (index . 2).sidecar -}}
{{- $items = append $items (dict "key" (printf "%s.key" (index . 1)) "path" "service.key") -}}
{{- end -}}
- name: access
  secret:
    secretName: {{ include "fleet.accessSecret" (index . 0) | quote }}
    items: {{- toYaml $items | nindent 6 }}
    defaultMode: 288
{{- end }}
