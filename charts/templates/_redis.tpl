{{- /* Rules of each user of Redis, as YAML. */ -}}
{{- define "fleet.redisUsers" -}}
{{- .Files.Get "files/redis-users.yaml" -}}
{{- end }}

{{- /* Name of the Secret with a password for each user of Redis. */ -}}
{{- define "fleet.redisSecret" -}}
{{- default (printf "%s-redis" (include "fleet.fullname" .)) .Values.redis.auth.existingSecret -}}
{{- end }}

{{- /* Random text for a Secret, made once: (list root secret key). The Secret in the cluster has it after
       the first installation; `helm template`, which sees no cluster, makes another one each time. */ -}}
{{- define "fleet.madeOnce" -}}
{{- $root := index . 0 -}}{{- $secret := index . 1 -}}{{- $key := index . 2 -}}
{{- $known := (lookup "v1" "Secret" $root.Release.Namespace $secret).data | default dict -}}
{{- if hasKey $known $key -}}{{- index $known $key | b64dec -}}{{- else -}}{{- randAlphaNum 48 -}}{{- end -}}
{{- end }}

{{- /* Password of each user of Redis, as YAML. Random ones are drawn once in a rendering, because the
       Secret and the checksums of the pods must agree. */ -}}
{{- define "fleet.redisPasswords" -}}
{{- if not (hasKey .Values "renderedPasswords") -}}
{{- $root := . -}}{{- $made := dict -}}
{{- range $user, $rules := include "fleet.redisUsers" . | fromYaml -}}
{{- $own := "" -}}
{{- with $root.Values.redis.auth.password -}}
{{- $own = printf "%s/%s" . $user | sha256sum -}}
{{- else -}}
{{- $own = include "fleet.madeOnce" (list $root (printf "%s-redis" (include "fleet.fullname" $root)) $user) -}}
{{- end -}}
{{- $_ := set $made $user $own -}}
{{- end -}}
{{- $_ := set .Values "renderedPasswords" $made -}}
{{- end -}}
{{- toYaml .Values.renderedPasswords -}}
{{- end }}

{{- /* Digest that changes with the passwords, so that pods restart with the new ones. */ -}}
{{- define "fleet.redisChecksum" -}}
{{- $redis := .Values.redis -}}
{{- if not $redis.embedded -}}
{{- toYaml $redis.external | sha256sum | trunc 16 -}}
{{- else if $redis.auth.existingSecret -}}
{{- $known := lookup "v1" "Secret" .Release.Namespace $redis.auth.existingSecret -}}
{{- list $redis.auth.existingSecret $known.data | toJson | sha256sum | trunc 16 -}}
{{- else -}}
{{- include "fleet.redisPasswords" . | sha256sum | trunc 16 -}}
{{- end -}}
{{- end }}

{{- /* Environment variable with the URL of Redis and the login of one user, or nothing for a service
       that has no user: (list root prefix user). */ -}}
{{- define "fleet.redisEnv" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}{{- $user := index . 2 -}}{{- $redis := $root.Values.redis -}}
{{- if hasKey (include "fleet.redisUsers" $root | fromYaml) $user -}}
{{- if $redis.embedded -}}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "fleet.redisSecret" $root }}, key: {{ $user }}}}
- name: BEM_{{ $prefix }}_REDIS_URL
  value: redis://{{ $user }}:$(REDIS_PASSWORD)@{{ include "fleet.fullname" $root }}-redis.{{ $root.Release.Namespace }}.svc:6379/0
{{- else if $redis.external.existingSecret -}}
- name: BEM_{{ $prefix }}_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $redis.external.existingSecret }}, key: {{ ternary $user "url" $redis.external.urlPerUser }}}}
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
    secretName: {{ include "fleet.keysSecret" (index . 0) }}
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
