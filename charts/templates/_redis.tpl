{{- /* Rules of each user of Redis, as YAML. */ -}}
{{- define "fleet.redisUsers" -}}
{{- .Files.Get "files/redis-users.yaml" -}}
{{- end }}

{{- /* Name of the Secret with a password for each user of Redis. */ -}}
{{- define "fleet.redisSecret" -}}
{{- default (printf "%s-redis" (include "fleet.fullname" .)) .Values.redis.auth.existingSecret -}}
{{- end }}

{{- /* Passwords of the users of Redis that are derived from one text, as YAML. */ -}}
{{- define "fleet.redisPasswords" -}}
{{- $root := . -}}{{- $made := dict -}}
{{- range $user, $rules := include "fleet.redisUsers" . | fromYaml -}}
{{- $_ := set $made $user (printf "%s/%s" $root.Values.redis.auth.password $user | sha256sum) -}}
{{- end -}}
{{- toYaml $made -}}
{{- end }}

{{- /* Digest that changes with the passwords, so that pods restart with the new ones. Made passwords never
       change; a release that an older chart made keeps that chart's digest, and so its pods. */ -}}
{{- define "fleet.redisChecksum" -}}
{{- $redis := .Values.redis -}}
{{- $known := lookup "v1" "Secret" .Release.Namespace (include "fleet.redisSecret" .) | default dict -}}
{{- if not $redis.embedded -}}
{{- toYaml $redis.external | sha256sum | trunc 16 -}}
{{- else if and $redis.auth.existingSecret (include "fleet.restartSecrets" . | fromJsonArray) -}}
{{- /* The orchestrator restarts what reads it: a content that only helm sees would be drift elsewhere. */ -}}
{{- $redis.auth.existingSecret | sha256sum | trunc 16 -}}
{{- else if $redis.auth.existingSecret -}}
{{- list $redis.auth.existingSecret $known.data | toJson | sha256sum | trunc 16 -}}
{{- else if $redis.auth.password -}}
{{- include "fleet.redisPasswords" . | sha256sum | trunc 16 -}}
{{- else if include "fleet.keptSecret" (list . (include "fleet.redisSecret" .)) -}}
{{- $words := dict -}}
{{- range $user, $word := $known.data -}}{{- $_ := set $words $user ($word | b64dec) -}}{{- end -}}
{{- toYaml $words | sha256sum | trunc 16 -}}
{{- else -}}
{{- dig "metadata" "annotations" "fleet.bem.dev/checksum" "made" $known -}}
{{- end -}}
{{- end }}

{{- /* Environment variable with the URL of Redis and the login of one user, or nothing for a service
       that has no user: (list root prefix user). */ -}}
{{- define "fleet.redisEnv" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}{{- $user := index . 2 -}}{{- $redis := $root.Values.redis -}}
{{- if hasKey (include "fleet.redisUsers" $root | fromYaml) $user -}}
{{- if $redis.embedded -}}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "fleet.redisSecret" $root | quote }}, key: {{ $user | quote }}}}
- name: BEM_{{ $prefix }}_REDIS_URL
  value: redis://{{ $user }}:$(REDIS_PASSWORD)@{{ include "fleet.fullname" $root }}-redis.{{ $root.Release.Namespace }}.svc:6379/0
{{- else if $redis.external.existingSecret -}}
- name: BEM_{{ $prefix }}_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $redis.external.existingSecret | quote }}, key: {{ ternary $user "url" $redis.external.urlPerUser | quote }}}}
{{- else -}}
- name: BEM_{{ $prefix }}_REDIS_URL
  value: {{ required "redis.embedded is false: set redis.external.url or redis.external.existingSecret" $redis.external.url }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Not empty if pods of a service connect to Redis: (list root name spec). */ -}}
{{- define "fleet.usesRedis" -}}
{{- if or (index . 2).sidecar (hasKey (include "fleet.redisUsers" (index . 0) | fromYaml) (index . 1)) -}}true{{- end -}}
{{- end }}

{{- /* Name of the Secret with the fleet's secret keys. */ -}}
{{- define "fleet.keysSecret" -}}
{{- default (printf "%s-keys" (include "fleet.fullname" .)) .Values.keys.existingSecret -}}
{{- end }}

{{- /* Volume with some of the secret keys: (list root keys). */ -}}
{{- define "fleet.keysVolume" -}}
- name: keys
  secret:
    secretName: {{ include "fleet.keysSecret" (index . 0) | quote }}
    defaultMode: 288
    items:
      {{- range index . 1 }}
      - {key: {{ . }}, path: {{ . }}.key}
      {{- end }}
{{- end }}

{{- /* Egress rules that lead to Redis. */ -}}
{{- define "fleet.redisEgress" -}}
{{- if .Values.redis.embedded -}}
- ports: [{port: 6379}]
  to:
    - podSelector:
        matchLabels: {{- include "fleet.selector" (list . "redis") | nindent 10 }}
{{- else -}}
- {} # the address of an external Redis is known to its URL only
{{- end -}}
{{- end }}

{{- /* Size of a volume in its StatefulSet, where it cannot change. A claim that has been enlarged keeps the
       size that the StatefulSet was made with; one that has not stops the upgrade before anything is
       written: (list root component size value). */ -}}
{{- define "fleet.volumeSize" -}}
{{- $root := index . 0 -}}{{- $size := index . 2 -}}{{- $value := index . 3 -}}
{{- $name := printf "%s-%s" (include "fleet.fullname" $root) (index . 1) -}}{{- $claim := printf "data-%s-0" $name -}}
{{- $namespace := $root.Release.Namespace -}}
{{- with lookup "apps/v1" "StatefulSet" $namespace $name -}}
{{- $made := (index .spec.volumeClaimTemplates 0).spec.resources.requests.storage -}}
{{- if ne $made $size -}}
{{- $live := dig "spec" "resources" "requests" "storage" $made (lookup "v1" "PersistentVolumeClaim" $namespace $claim | default dict) -}}
{{- if ne $live $size -}}
{{- fail (printf "%s: the volume has %s and a StatefulSet cannot change it; first run `kubectl -n %s patch pvc %s -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}'` (its StorageClass must allow expansion), then upgrade again" $value $live $namespace $claim $size) -}}
{{- end -}}
{{- $size = $made -}}
{{- end -}}
{{- end -}}
{{- $size -}}
{{- end }}
