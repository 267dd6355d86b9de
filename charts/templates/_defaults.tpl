{{- /* Fills in defaults that the values lack: those of a newer chart under `--reuse-values`, and blocks
       that are null. Every template begins with it. What installations name themselves, such as services
       and labels, is filled in as a whole or not at all, so that a name set to null stays removed. */ -}}
{{- define "fleet.defaults" -}}
{{- if not (hasKey .Values "renderedDefaults") -}}
{{- include "fleet.fill" (list .Values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- $_ := set .Values "renderedDefaults" true -}}
{{- end -}}
{{- end }}

{{- /* Sets keys that are absent or null, in depth: (list values defaults). */ -}}
{{- define "fleet.fill" -}}
{{- $values := index . 0 -}}
{{- $named := list "services" "settings" "resources" "resourceProfiles" "labels" "limits" "nodeSelector" "monitoringNamespace" "tracingNamespace" "issuerRef" -}}
{{- range $key, $default := index . 1 -}}
{{- if or (not (hasKey $values $key)) (kindIs "invalid" (index $values $key)) -}}
{{- $_ := set $values $key $default -}}
{{- else if and (kindIs "map" $default) (kindIs "map" (index $values $key)) (not (has $key $named)) -}}
{{- include "fleet.fill" (list (index $values $key) $default) -}}
{{- end -}}
{{- end -}}
{{- end }}
