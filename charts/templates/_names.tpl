{{- define "fleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "fleet.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | toString | replace "." "-" -}}
{{- /* Names of Services begin with a letter. */ -}}
{{- if not (regexMatch "^[a-z]" $name) -}}{{- $name = printf "%s-%s" .Chart.Name $name -}}{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels of selectors, which never change: (list root component). */ -}}
{{- define "fleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "fleet.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 | quote }}
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

{{- /* Values of a service: its block merged over `defaults`: (list root name). */ -}}
{{- define "fleet.spec" -}}
{{- $root := index . 0 -}}
{{- $own := required (printf "services.%s: is not a service; name a key of services" (index . 1)) (index $root.Values.services (index . 1)) -}}
{{- mergeOverwrite (deepCopy $root.Values.defaults) (deepCopy $own) | toYaml -}}
{{- end }}

{{- /* Not empty if the orchestrator is enabled; it then owns the placement of missions. */ -}}
{{- define "fleet.orchestrated" -}}
{{- if hasKey .Values.services "orchestrator" -}}
{{- if (include "fleet.spec" (list . "orchestrator") | fromYaml).enabled -}}true{{- end -}}
{{- end -}}
{{- end }}

{{- /* Not empty if a service has a Mission resource, which then owns its replicas: (list root spec). */ -}}
{{- define "fleet.isMission" -}}
{{- if and (index . 1).sidecar (include "fleet.orchestrated" (index . 0)) -}}true{{- end -}}
{{- end }}

{{- /* Address of a service inside the cluster: (list root name). */ -}}
{{- define "fleet.address" -}}
{{- $spec := include "fleet.spec" . | fromYaml -}}
{{- if not $spec.enabled -}}
{{- fail (printf "services.%s.enabled is false, but the settings of another service refer to its address; enable it" (index . 1)) -}}
{{- end -}}
{{- $root := index . 0 -}}
{{- printf "%s-%s.%s.svc:%v" (include "fleet.fullname" $root) (index . 1) $root.Release.Namespace $spec.port -}}
{{- end }}

{{- /* Address of a service, or nothing where it is not enabled: (list root name). */ -}}
{{- define "fleet.addressIfEnabled" -}}
{{- $root := index . 0 -}}
{{- if hasKey $root.Values.services (index . 1) -}}
{{- if (include "fleet.spec" . | fromYaml).enabled }}{{ include "fleet.address" . }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* JSON object from the name of each enabled mission to its address. */ -}}
{{- define "fleet.missions" -}}
{{- $root := . -}}{{- $found := dict -}}
{{- range $name, $own := .Values.services -}}
{{- $spec := include "fleet.spec" (list $root $name) | fromYaml -}}
{{- if and $spec.enabled $spec.sidecar -}}
{{- $_ := set $found $name (include "fleet.address" (list $root $name)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{- /* JSON object from the name of each mission whose pods the gateway calls to its headless Service. */ -}}
{{- define "fleet.replica_sets" -}}
{{- $found := dict -}}
{{- range $name, $address := include "fleet.missions" . | fromJson -}}
{{- if (include "fleet.spec" (list $ $name) | fromYaml).replicaRouting -}}
{{- $full := printf "%s-%s" (include "fleet.fullname" $) $name -}}
{{- $_ := set $found $name ($address | replace (printf "%s." $full) (printf "%s-pods." $full)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{- /* JSON object from the name of each enabled mission to the address of its canary's own pods, whose
       Service the orchestrator makes. */ -}}
{{- define "fleet.canaries" -}}
{{- $found := dict -}}
{{- range $name, $address := include "fleet.missions" . | fromJson -}}
{{- $full := printf "%s-%s" (include "fleet.fullname" $) $name -}}
{{- $_ := set $found $name ($address | replace (printf "%s." $full) (printf "%s-canary." $full)) -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{- /* Reference of an image: (list root image name). */ -}}
{{- define "fleet.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}{{- $all := $root.Values.image -}}
{{- $name := printf "%s/%s/%s" $all.registry $all.prefix (default (index . 2) $image.name) -}}
{{- $tagged := printf "%s:%s" $name (coalesce $image.tag $all.tag $root.Chart.AppVersion) -}}
{{- if $image.digest -}}{{- printf "%s@%s" $name $image.digest -}}{{- else -}}{{- $tagged -}}{{- end -}}
{{- end }}

{{- /* Prefix of the release's cluster-scoped names, unique to it: a namespace has no dot. */ -}}
{{- define "fleet.clusterPrefix" -}}
{{- printf "%s.%s-" .Release.Namespace (include "fleet.fullname" .) -}}
{{- end }}

{{- /* Prefix of the PriorityClasses. A release that an older chart made keeps that chart's names, because
       other ones would restart every pod. */ -}}
{{- define "fleet.priorityPrefix" -}}
{{- $old := printf "%s-" (include "fleet.fullname" .) -}}
{{- $found := lookup "scheduling.k8s.io/v1" "PriorityClass" "" (printf "%scritical" $old) | default dict -}}
{{- $annotations := dig "metadata" "annotations" dict $found -}}
{{- $mine := and (eq (index $annotations "meta.helm.sh/release-name" | default "") .Release.Name) (eq (index $annotations "meta.helm.sh/release-namespace" | default "") .Release.Namespace) -}}
{{- ternary $old (include "fleet.clusterPrefix" .) $mine -}}
{{- end }}
