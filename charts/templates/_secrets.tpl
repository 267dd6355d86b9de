{{- /* ServiceAccount that owns the Secrets of the release: they go with it. Older charts have it too, so that
       a rollback to one does not delete them. */ -}}
{{- define "fleet.anchor" -}}
{{- include "fleet.fullname" . }}-witness
{{- end }}

{{- /* What the release needs and no value gives, as YAML: Secrets that a Job makes in the cluster, because
       rendering must give the same text each time. */ -}}
{{- define "fleet.madeSecrets" -}}
{{- $root := . -}}{{- $full := include "fleet.fullname" . -}}{{- $made := dict -}}
{{- if and .Values.redis.embedded (not .Values.redis.auth.password) (not .Values.redis.auth.existingSecret) -}}
{{- $users := include "fleet.redisUsers" . | fromYaml | keys | sortAlpha -}}
{{- $_ := set $made "redis" (dict "secret" (include "fleet.redisSecret" .) "users" $users) -}}
{{- end -}}
{{- if not (or .Values.keys.existingSecret .Values.keys.seed) -}}
{{- $outlives := eq .Values.redis.persistence.whenDeleted "Retain" -}}
{{- $_ := set $made "keys" (dict "secret" (include "fleet.keysSecret" .) "names" (list "audit" "feedback") "outlivesRelease" $outlives) -}}
{{- end -}}
{{- if not (or .Values.access.existingSecret .Values.keys.seed) -}}
{{- $_ := set $made "access" (dict "secret" (include "fleet.accessSecret" .) "roles" (include "fleet.accessRoles" . | fromYaml) "anonymousUsers" .Values.access.anonymousUsers "limits" .Values.access.limits "keys" .Values.access.keys) -}}
{{- end -}}
{{- if and (include "fleet.tls" .) (not .Values.tls.existingSecret) (not .Values.tls.issuerRef) -}}
{{- $certificates := list -}}
{{- range $name, $dns := include "fleet.tlsNames" . | fromYaml -}}
{{- $addresses := ternary (list "127.0.0.1") list (has "localhost" $dns) -}}
{{- $certificates = append $certificates (dict "secret" (include "fleet.tlsSecret" (list $root $name)) "component" $name "names" $dns "addresses" $addresses "commonName" (printf "%s-%s" $full $name | trunc 63)) -}}
{{- end -}}
{{- $_ := set $made "tls" (dict "authority" (printf "%s-ca" $full) "authorityName" (printf "%s pods" $full) "days" (int .Values.tls.days) "renewal" (include "fleet.text" .Values.tls.renewal) "certificates" $certificates) -}}
{{- end -}}
{{- if $made -}}
{{- $labels := omit (include "fleet.labels" (list . "secrets") | fromYaml) "app.kubernetes.io/version" "helm.sh/chart" "app.kubernetes.io/component" -}}
{{- toYaml (merge $made (dict "anchor" (include "fleet.anchor" .) "release" .Release.Name "labels" $labels)) -}}
{{- end -}}
{{- end }}

{{- /* Names of the Secrets that the Job makes, as a JSON list. */ -}}
{{- define "fleet.madeNames" -}}
{{- $made := include "fleet.madeSecrets" . | fromYaml -}}{{- $names := list -}}
{{- range $key := list "redis" "keys" "access" -}}
{{- with index $made $key -}}{{- $names = append $names .secret -}}{{- end -}}
{{- end -}}
{{- with $made.tls -}}
{{- $names = append $names .authority -}}
{{- range .certificates -}}{{- $names = append $names .secret -}}{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{- /* A Secret of this release that an older chart rendered and no Job has adopted yet, as YAML; else
       nothing. It is rendered once more as it is, because helm would delete it: (list root name). */ -}}
{{- define "fleet.keptSecret" -}}
{{- $root := index . 0 -}}
{{- with lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- $annotations := .metadata.annotations | default dict -}}
{{- $mine := and (eq (index $annotations "meta.helm.sh/release-name" | default "") $root.Release.Name) (not (hasKey $annotations "fleet.bem.dev/made-by")) -}}
{{- if $mine -}}
{{- toYaml (dict "type" .type "data" (.data | default dict) "labels" (.metadata.labels | default dict) "annotations" (omit $annotations "meta.helm.sh/release-name" "meta.helm.sh/release-namespace")) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Annotation of a Secret that the chart renders from a seed where a Job made it before: a rollback to
       the revision without it must not delete it: (list root name). */ -}}
{{- define "fleet.keepMade" -}}
{{- with lookup "v1" "Secret" (index . 0).Release.Namespace (index . 1) -}}
{{- if hasKey (.metadata.annotations | default dict) "fleet.bem.dev/made-by" -}}
helm.sh/resource-policy: keep
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Specification of the Job that makes the Secrets. Its hash is part of the Job's name, because a Job
       cannot be changed. */ -}}
{{- define "fleet.secretsJob" -}}
{{- $full := include "fleet.fullname" . -}}
{{- $image := dict -}}
{{- if hasKey .Values.services "orchestrator" -}}
{{- $image = (include "fleet.spec" (list . "orchestrator") | fromYaml).image -}}
{{- else -}}
{{- $image = .Values.defaults.image -}}
{{- end -}}
backoffLimit: 5
template:
  metadata:
    labels: {{- include "fleet.podLabels" (list . "secrets") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    serviceAccountName: {{ $full }}-secrets
    automountServiceAccountToken: true
    enableServiceLinks: false
    {{- include "fleet.pullSecrets" . | nindent 4 }}
    {{- with include "fleet.placement" (list . dict) }}{{ . | nindent 4 }}{{ end }}
    securityContext: {{- include "fleet.podSecurity" . | nindent 6 }}
    containers:
      - name: make-secrets
        image: {{ include "fleet.image" (list . $image "orchestrator") }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        securityContext: {{- include "fleet.containerSecurity" . | nindent 10 }}
        command: [python, /job/make_secrets.py]
        env:
          - {name: NAMESPACE, value: {{ .Release.Namespace | quote }}}
          - {name: WANTED, value: /job/wanted.json}
          # Another text makes another Job, which has another name.
          - {name: WANTED_SHA256, value: {{ list (include "fleet.madeSecrets" .) (.Files.Get "files/make_secrets.py") | toJson | sha256sum }}}
        resources: {{- toYaml .Values.jobs.resources | nindent 10 }}
        volumeMounts:
          - {name: job, mountPath: /job, readOnly: true}
          - {name: tmp, mountPath: /tmp}
    volumes:
      - {name: job, configMap: {name: {{ $full }}-secrets}}
      - {name: tmp, emptyDir: {sizeLimit: 16Mi}}
{{- end }}

{{- /* Names of the Secrets that processes read at their start only, as a JSON list: the orchestrator restarts
       pods when one of them changes. Keys of clients and certificates are read again by themselves. */ -}}
{{- define "fleet.restartSecrets" -}}
{{- $names := list -}}
{{- if and .Values.orchestration.restartsPods (include "fleet.orchestrated" .) -}}
{{- /* Values of an older chart, kept by --reuse-values, have not the setting. */ -}}
{{- if hasKey (include "fleet.spec" (list . "orchestrator") | fromYaml).settings "RESTART_SECRETS" -}}
{{- $names = append $names (include "fleet.keysSecret" .) -}}
{{- if .Values.redis.embedded -}}
{{- $names = append $names (include "fleet.redisSecret" .) -}}
{{- else if .Values.redis.external.existingSecret -}}
{{- $names = append $names .Values.redis.external.existingSecret -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | toJson -}}
{{- end }}

{{- /* Names of the StatefulSets that may be restarted, each before what depends on it, as a JSON list. */ -}}
{{- define "fleet.restartStatefulSets" -}}
{{- $names := list -}}
{{- if include "fleet.restartSecrets" . | fromJsonArray -}}
{{- range $component := ternary (list "redis" "witness") (list "witness") .Values.redis.embedded -}}
{{- $names = append $names (printf "%s-%s" (include "fleet.fullname" $) $component) -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}
