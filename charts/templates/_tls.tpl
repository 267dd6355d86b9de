{{- /* Mode of TLS between pods. YAML reads a bare `off` as false. */ -}}
{{- define "fleet.tlsMode" -}}
{{- ternary "off" .Values.tls.mode (eq (toString .Values.tls.mode) "false") -}}
{{- end }}

{{- /* Not empty if gRPC between pods has TLS. */ -}}
{{- define "fleet.tls" -}}
{{- if ne (include "fleet.tlsMode" .) "off" -}}true{{- end -}}
{{- end }}

{{- /* Name of the Secret with a service's certificate, or with that of clients: (list root name). */ -}}
{{- define "fleet.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.tls.existingSecret -}}
{{- . | replace "{service}" (index $ 1) -}}
{{- else -}}
{{- printf "%s-%s-tls" (include "fleet.fullname" $root) (index . 1) -}}
{{- end -}}
{{- end }}

{{- /* Certificates that the release needs, as YAML: DNS names by name of a service, and those of `client`
       for operators and the helm test. A mission's name its canary's Service too, whose pods are copies of
       stable's; localhost is the name of a forwarded port. */ -}}
{{- define "fleet.tlsNames" -}}
{{- $root := . -}}{{- $full := include "fleet.fullname" . -}}
{{- $names := dict "client" (list (printf "%s-client" $full)) -}}
{{- range $name, $own := .Values.services -}}
{{- if eq $name "client" }}{{ fail "services.client: is the name of the clients' certificate; choose another one" }}{{ end -}}
{{- $spec := include "fleet.spec" (list $root $name) | fromYaml -}}
{{- if $spec.enabled -}}
{{- $found := list -}}
{{- range $service := ternary (list $name (printf "%s-canary" $name)) (list $name) $spec.sidecar -}}
{{- $short := printf "%s-%s" $full $service -}}
{{- $qualified := printf "%s.%s" $short $root.Release.Namespace -}}
{{- $found = concat $found (list $short $qualified (printf "%s.svc" $qualified) (printf "%s.svc.cluster.local" $qualified)) -}}
{{- end -}}
{{- $_ := set $names $name (append $found "localhost") -}}
{{- end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end }}

{{- /* Settings of TLS between pods: (list root prefix). */ -}}
{{- define "fleet.tlsEnv" -}}
{{- if include "fleet.tls" (index . 0) -}}
- {name: BEM_{{ index . 1 }}_TLS_MODE, value: {{ include "fleet.tlsMode" (index . 0) | quote }}}
- {name: BEM_{{ index . 1 }}_TLS_FOLDER, value: /run/pod-tls}
{{- end -}}
{{- end }}

{{- /* Address of the plain health port: (list root prefix). */ -}}
{{- define "fleet.healthEnv" -}}
{{- if include "fleet.tls" (index . 0) -}}
- {name: BEM_{{ index . 1 }}_HEALTH_ADDRESS, value: "[::]:{{ (index . 0).Values.tls.healthPort }}"}
{{- end -}}
{{- end }}

{{- /* Container port of health, as a list of none or one. */ -}}
{{- define "fleet.healthPorts" -}}
{{- if include "fleet.tls" . -}}
- {name: health, containerPort: {{ .Values.tls.healthPort }}}
{{- end -}}
{{- end }}

{{- /* Port of gRPC probes: kubelets speak no TLS: (list root port). */ -}}
{{- define "fleet.probePort" -}}
{{- ternary (index . 0).Values.tls.healthPort (index . 1) (ne (include "fleet.tls" (index . 0)) "") -}}
{{- end }}

{{- define "fleet.tlsMount" -}}
{{- if include "fleet.tls" . -}}
- {name: pod-tls, mountPath: /run/pod-tls, readOnly: true}
{{- end -}}
{{- end }}

{{- /* Volume with the certificate of a service: (list root name). */ -}}
{{- define "fleet.tlsVolume" -}}
{{- if include "fleet.tls" (index . 0) -}}
- {name: pod-tls, secret: {secretName: {{ include "fleet.tlsSecret" . | quote }}, defaultMode: 288}}
{{- end -}}
{{- end }}
