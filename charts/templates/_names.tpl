{{- define "fleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "fleet.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels that never change: (list root component). */ -}}
{{- define "fleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "fleet.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* All labels: (list root component). */ -}}
{{- define "fleet.labels" -}}
{{- $root := index . 0 -}}
{{ include "fleet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bem-fleet
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- /* A service's own block over the defaults: (list root name). */ -}}
{{- define "fleet.spec" -}}
{{- $root := index . 0 -}}
{{- $own := required (printf "services.%s: there is no such service" (index . 1)) (index $root.Values.services (index . 1)) -}}
{{- mergeOverwrite (deepCopy $root.Values.defaults) (deepCopy $own) | toYaml -}}
{{- end }}

{{- /* Not empty if the orchestrator runs, which then owns where missions are placed. */ -}}
{{- define "fleet.orchestrated" -}}
{{- if hasKey .Values.services "orchestrator" -}}
{{- if (include "fleet.spec" (list . "orchestrator") | fromYaml).enabled -}}true{{- end -}}
{{- end -}}
{{- end }}

{{- /* Not empty if a service is a Mission, which then owns its number of pods: (list root spec). */ -}}
{{- define "fleet.isMission" -}}
{{- if and (index . 1).sidecar (include "fleet.orchestrated" (index . 0)) -}}true{{- end -}}
{{- end }}

{{- /* Where a service is reached inside the cluster: (list root name). */ -}}
{{- define "fleet.address" -}}
{{- $spec := include "fleet.spec" . | fromYaml -}}
{{- if not $spec.enabled -}}
{{- fail (printf "services.%s.enabled is false, but another service's settings name its address" (index . 1)) -}}
{{- end -}}
{{- $root := index . 0 -}}
{{- printf "%s-%s.%s.svc:%v" (include "fleet.fullname" $root) (index . 1) $root.Release.Namespace $spec.port -}}
{{- end }}

{{- /* An image's reference: (list root image name). */ -}}
{{- define "fleet.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}{{- $all := $root.Values.image -}}
{{- $name := printf "%s/%s/%s" $all.registry $all.prefix (default (index . 2) $image.name) -}}
{{- $tagged := printf "%s:%s" $name (coalesce $image.tag $all.tag $root.Chart.AppVersion) -}}
{{- if $image.digest -}}{{- printf "%s@%s" $name $image.digest -}}{{- else -}}{{- $tagged -}}{{- end -}}
{{- end }}
