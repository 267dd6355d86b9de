{{- /* All objects of one service: (dict "root" $ "name" name "spec" spec). */ -}}
{{- define "fleet.service" -}}
{{- $root := .root -}}{{- $name := .name -}}{{- $spec := .spec -}}
{{- $full := printf "%s-%s" (include "fleet.fullname" $root) $name -}}
{{- $scaled := $spec.autoscaling.enabled }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $full }}
  labels: {{- include "fleet.labels" (list $root $name) | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}
  labels: {{- include "fleet.labels" (list $root $name) | nindent 4 }}
spec:
  ipFamilyPolicy: {{ $root.Values.ipFamilyPolicy }}
  selector: {{- include "fleet.stable" (list $root $name $spec) | nindent 4 }}
  ports:
    - name: {{ $spec.protocol }}
      port: {{ $spec.port }}
      targetPort: {{ $spec.protocol }}
      appProtocol: {{ ternary (ternary "https" "http" (ne $spec.tls.existingSecret "")) (ternary "https" "kubernetes.io/h2c" (ne (include "fleet.tls" $root) "")) (eq $spec.protocol "http") }}
    {{- if $spec.metricsPort }}
    - {name: metrics, port: {{ $spec.metricsPort }}, targetPort: metrics}
    {{- end }}
{{- if and $spec.sidecar $spec.replicaRouting }}
---
# Names the ready pods, which the gateway calls by a request's beginning.
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}-pods
  labels: {{- include "fleet.labels" (list $root $name) | nindent 4 }}
spec:
  clusterIP: None
  ipFamilyPolicy: {{ $root.Values.ipFamilyPolicy }}
  selector: {{- include "fleet.stable" (list $root $name $spec) | nindent 4 }}
  ports:
    - {name: {{ $spec.protocol }}, port: {{ $spec.port }}, targetPort: {{ $spec.protocol }}}
{{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $full }}
  labels: {{- include "fleet.labels" (list $root $name) | nindent 4 }}
    {{- if $spec.sidecar }}
    fleet.bem.dev/mission: {{ $name | quote }}
    {{- end }}
  {{- if include "fleet.isMission" (list $root $spec) }}
  annotations: {fleet.bem.dev/values-image: {{ include "fleet.image" (list $root $spec.image $name) | quote }}}
  {{- else if not $scaled }}
  annotations: {fleet.bem.dev/values-replicas: {{ $spec.replicas | toString | quote }}}
  {{- end }}
spec:
  {{- with include "fleet.replicas" . }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector:
    matchLabels: {{- include "fleet.stable" (list $root $name $spec) | nindent 6 }}
  template:
    metadata:
      labels: {{- include "fleet.podLabels" (list $root $name) | nindent 8 }}
        {{- if $spec.sidecar }}
        fleet.bem.dev/mission: {{ $name | quote }}
        fleet.bem.dev/track: stable
        {{- end }}
      annotations:
        checksum/redis: {{ include "fleet.redisChecksum" $root }}
        {{- with $spec.podAnnotations }}{{ toYaml . | nindent 8 }}{{- end }}
    spec: {{- include "fleet.pod" . | nindent 6 }}
{{- if or (gt (int $spec.replicas) 1) $scaled (include "fleet.isMission" (list $root $spec)) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $full }}
  labels: {{- include "fleet.labels" (list $root $name) | nindent 4 }}
spec:
  maxUnavailable: {{ $spec.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "fleet.stable" (list $root $name $spec) | nindent 6 }}
{{- end }}
{{- if $scaled }}
---
{{ include "fleet.autoscaler" (dict "root" $root "name" $name "spec" $spec "full" $full) }}
{{- end }}
{{- end }}

{{- /* Number of a Deployment's pods, or nothing where a Mission owns it. What an autoscaler or `kubectl scale`
       has set stays until the values change: without the live number, turning an autoscaler on would leave
       one pod for some seconds: (dict "root" "name" "spec"). */ -}}
{{- define "fleet.replicas" -}}
{{- if not (include "fleet.isMission" (list .root .spec)) -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (printf "%s-%s" (include "fleet.fullname" .root) .name) | default dict -}}
{{- $values := dig "metadata" "annotations" "fleet.bem.dev/values-replicas" "" $live -}}
{{- if and $live (or .spec.autoscaling.enabled (eq $values (.spec.replicas | toString))) -}}
{{- $live.spec.replicas -}}
{{- else if not .spec.autoscaling.enabled -}}
{{- .spec.replicas -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Selector of a service's stable pods, without those of its canary: (list root name spec). */ -}}
{{- define "fleet.stable" -}}
{{ include "fleet.selector" . }}
{{- if (index . 2).sidecar }}
fleet.bem.dev/track: stable
{{- end }}
{{- end }}

{{- define "fleet.pod" -}}
{{- $root := .root -}}{{- $name := .name -}}{{- $spec := .spec -}}
{{- $full := printf "%s-%s" (include "fleet.fullname" $root) $name -}}
{{- if and $spec.tls.existingSecret (ne $spec.protocol "http") }}
{{- fail (printf "services.%s.tls.existingSecret: only http services have a certificate of their own; that of gRPC between pods is tls.existingSecret; remove it" $name) }}
{{- end }}
{{- $profile := required (printf "services.%s.profile is %q; resourceProfiles has: %s" $name $spec.profile (keys $root.Values.resourceProfiles | sortAlpha | join ", ")) (ternary (index $root.Values.resourceProfiles $spec.profile) nil (hasKey $root.Values.resourceProfiles $spec.profile)) -}}
serviceAccountName: {{ $full }}
automountServiceAccountToken: {{ $spec.apiAccess }}
enableServiceLinks: false
{{- include "fleet.pullSecrets" $root }}
{{- if $root.Values.priorityClasses.create }}
priorityClassName: {{ include "fleet.priorityPrefix" $root }}{{ $spec.priority }}
{{- end }}
terminationGracePeriodSeconds: {{ add $spec.drainSeconds 15 }}
securityContext: {{- include "fleet.podSecurity" $root | nindent 2 }}
{{- with $profile.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- $selector := merge (deepCopy $spec.nodeSelector) ($profile.nodeSelector | default dict) }}
{{- $tolerations := concat $spec.tolerations ($profile.tolerations | default list) }}
{{- if dig "gpus" list $spec.mission }}
{{- /* The orchestrator writes the list of a mission with GPUs too; an equal list is no conflict. */}}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") | uniq }}
{{- end }}
{{- include "fleet.placement" (list $root (dict "nodeSelector" $selector "tolerations" $tolerations "affinity" $spec.affinity)) }}
{{- if $root.Values.topologySpread.enabled }}
topologySpreadConstraints: {{- include "fleet.spread" (list $root $name) | nindent 2 }}
{{- end }}
{{- if $spec.sidecar }}
initContainers:
  {{- include "fleet.sidecar" . | nindent 2 }}
{{- end }}
containers:
  - name: {{ $name | quote }}
    {{- $promoted := include "fleet.promoted" . | fromJson }}
    image: {{ $promoted.image | default (include "fleet.image" (list $root $spec.image $name)) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    securityContext: {{- include "fleet.containerSecurity" $root | nindent 6 }}
    {{- if not $spec.sidecar }}
    ports:
      - {name: {{ $spec.protocol }}, containerPort: {{ $spec.port }}}
      {{- if $spec.metricsPort }}
      - {name: metrics, containerPort: {{ $spec.metricsPort }}}
      {{- end }}
      {{- if eq $spec.protocol "grpc" }}{{- with include "fleet.healthPorts" $root }}{{ . | nindent 6 }}{{ end }}{{ end }}
    {{- end }}
    {{- if $promoted.env }}
    {{- $env := list }}
    {{- range include "fleet.env" . | fromYamlArray }}
    {{- if not (hasKey $promoted.env .name) }}{{- $env = append $env . }}{{- end }}
    {{- end }}
    {{- range $key, $value := $promoted.env }}{{- $env = append $env (dict "name" $key "value" $value) }}{{- end }}
    env: {{- toYaml $env | nindent 6 }}
    {{- else }}
    env: {{- include "fleet.env" . | nindent 6 }}
    {{- end }}
    {{- include "fleet.probes" . | nindent 4 }}
    # Endpoints drop the pod before it stops accepting calls.
    lifecycle: {preStop: {sleep: {seconds: 5}}}
    resources: {{- include "fleet.resources" (list $spec $profile) | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if $spec.sidecar }}
      - {name: socket, mountPath: /run/bem}
      {{- end }}
      {{- if $spec.keys }}
      - {name: keys, mountPath: /run/keys, readOnly: true}
      {{- end }}
      {{- if eq $spec.model.source "volume" }}
      - {name: model, mountPath: /models, readOnly: true}
      {{- end }}
      {{- if not $spec.sidecar }}
      - {name: access, mountPath: /run/access, readOnly: true}
      {{- with include "fleet.tlsMount" $root }}{{ . | nindent 6 }}{{ end }}
      {{- end }}
      {{- if $spec.tls.existingSecret }}
      - {name: tls, mountPath: /run/tls, readOnly: true}
      {{- end }}
      {{- if $spec.model.adaptersClaim }}
      - {name: adapters, mountPath: /app/adapters, readOnly: true}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
  {{- include "fleet.accessVolume" (list $root $name $spec) | nindent 2 }}
  {{- with include "fleet.tlsVolume" (list $root $name) }}{{ . | nindent 2 }}{{ end }}
  {{- if $spec.sidecar }}
  - {name: socket, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: audit-key
    secret: {secretName: {{ include "fleet.keysSecret" $root | quote }}, defaultMode: 288, items: [{key: audit, path: audit.key}]}
  {{- end }}
  {{- with $spec.keys }}
  {{- include "fleet.keysVolume" (list $root .) | nindent 2 }}
  {{- end }}
  {{- if eq $spec.model.source "volume" }}
  - {name: model, persistentVolumeClaim: {claimName: {{ required (printf "services.%s.model.source is volume: set model.existingClaim" $name) $spec.model.existingClaim | quote }}, readOnly: true}}
  {{- end }}
  {{- with $spec.tls.existingSecret }}
  - {name: tls, secret: {secretName: {{ . | quote }}, defaultMode: 288}}
  {{- end }}
  {{- with $spec.model.adaptersClaim }}
  - {name: adapters, persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}}
  {{- end }}
{{- end }}

{{- /* Image and variables of a canary that was promoted since the values last named another image, as JSON:
       an upgrade with the same image keeps them: (dict "root" "name" "spec"). */ -}}
{{- define "fleet.promoted" -}}
{{- $kept := dict -}}
{{- if include "fleet.isMission" (list .root .spec) -}}
{{- $wanted := include "fleet.image" (list .root .spec.image .name) -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (printf "%s-%s" (include "fleet.fullname" .root) .name) | default dict -}}
{{- $annotations := dig "metadata" "annotations" dict $live -}}
{{- $promoted := index $annotations "fleet.bem.dev/promoted" | default "{}" | fromJson -}}
{{- if and $promoted (eq (index $annotations "fleet.bem.dev/values-image" | default "") $wanted) -}}
{{- range $live.spec.template.spec.containers -}}
{{- if and (eq .name $.name) (eq .image $promoted.image) -}}{{- $kept = $promoted -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $kept -}}
{{- end }}

{{- define "fleet.env" -}}
{{- $prefix := upper .name | replace "-" "_" -}}{{- $spec := .spec -}}
{{- if $spec.sidecar -}}
- {name: BEM_{{ $prefix }}_ADDRESS, value: "unix:/run/bem/mission.sock"}
{{- else -}}
- {name: BEM_{{ $prefix }}_ADDRESS, value: "[::]:{{ $spec.port }}"}
- {name: BEM_{{ $prefix }}_KEYS_FILE, value: /run/access/keys.yaml}
- {name: BEM_{{ $prefix }}_SERVICE_KEY_FILE, value: /run/access/service.key}
{{- with include "fleet.tlsEnv" (list .root $prefix) }}
{{ . }}
{{- end }}
{{- if eq $spec.protocol "grpc" }}
{{- with include "fleet.healthEnv" (list .root $prefix) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
- {name: BEM_{{ $prefix }}_DRAIN_S, value: {{ $spec.drainSeconds | quote }}}
{{- if $spec.metricsPort }}
- {name: BEM_{{ $prefix }}_METRICS_ADDRESS, value: "[::]:{{ $spec.metricsPort }}"}
{{- end }}
{{- if $spec.tls.existingSecret }}
- {name: BEM_{{ $prefix }}_TLS, value: /run/tls}
{{- end }}
{{- if eq $spec.model.source "image" }}
- {name: BEM_{{ $prefix }}_CACHE, value: /models}
{{- else if eq $spec.model.source "volume" }}
- {name: BEM_{{ $prefix }}_CACHE, value: /tmp/models}
- {name: BEM_{{ $prefix }}_BACKBONE, value: "/models/{{ required (printf "services.%s.model.source is volume: set model.path" .name) $spec.model.path }}"}
{{- end }}
{{- if ne $spec.model.source "none" }}
- {name: HF_HOME, value: /tmp/huggingface}
- {name: TRANSFORMERS_OFFLINE, value: "1"}
{{- end }}
{{- with include "fleet.redisEnv" (list .root $prefix .name) }}
{{ . }}
{{- end }}
{{- with include "fleet.tracingEnv" (list .root $prefix) }}
{{ . }}
{{- end }}
{{- include "fleet.settingsEnv" (list .root $prefix $spec.settings) }}
{{- end }}

{{- /* How long a liveness probe waits: only what hangs for two minutes is restarted. On a node without
       a free processor, as after its reboot, answers take seconds; restarts would need still more, so
       that no pod would ever become ready. Readiness takes such a pod out of its Service meanwhile. */ -}}
{{- define "fleet.patience" -}}
periodSeconds: 20, timeoutSeconds: 15, failureThreshold: 6
{{- end }}

{{- /* Probes of a service. A mission's readiness is checked through its sidecar, as clients see it; its
       liveness by its metrics page, which depends on neither Redis nor the scorer. */ -}}
{{- define "fleet.probes" -}}
{{- $spec := .spec -}}
{{- $tries := div (add $spec.startupSeconds 1) 2 -}}
{{- $port := include "fleet.probePort" (list .root $spec.port) -}}
{{- if $spec.sidecar -}}
{{- $liveness := printf "httpGet: {port: %v, path: /upstream/metrics}" .root.Values.safetySidecar.pagesPort -}}
startupProbe: {{ printf "{%s, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: %v}" $liveness $tries }}
readinessProbe: {grpc: {port: {{ $port }}, service: {{ required (printf "services.%s.healthService is empty: readiness would check the sidecar alone; name the mission's gRPC service" .name) $spec.healthService }}}, periodSeconds: 3, timeoutSeconds: 3}
livenessProbe: {{ printf "{%s, %s}" $liveness (include "fleet.patience" .) }}
{{- else if eq $spec.protocol "http" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (ne $spec.tls.existingSecret "") -}}
startupProbe: {httpGet: {port: http, path: /healthz, scheme: {{ $scheme }}}, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: {{ $spec.startupSeconds }}}
readinessProbe: {httpGet: {port: http, path: /readyz, scheme: {{ $scheme }}}, periodSeconds: 3, timeoutSeconds: 3}
livenessProbe: {httpGet: {port: http, path: /healthz, scheme: {{ $scheme }}}, {{ include "fleet.patience" . }}}
{{- else -}}
startupProbe: {grpc: {port: {{ $port }}}, periodSeconds: 2, timeoutSeconds: 3, failureThreshold: {{ $tries }}}
readinessProbe: {grpc: {port: {{ $port }}, service: {{ $spec.healthService | quote }}}, periodSeconds: 3, timeoutSeconds: 3}
livenessProbe: {grpc: {port: {{ $port }}}, {{ include "fleet.patience" . }}}
{{- end }}
{{- end }}

{{- /* Requests and limits with the GPUs of the profile: (list spec profile). */ -}}
{{- define "fleet.resources" -}}
{{- $spec := index . 0 -}}{{- $gpu := (index . 1).gpuResource -}}
{{- if $gpu -}}
{{- $gpus := dict $gpu $spec.gpus -}}
{{- mergeOverwrite (deepCopy $spec.resources) (dict "limits" $gpus "requests" $gpus) | toYaml -}}
{{- else -}}
{{- toYaml $spec.resources -}}
{{- end -}}
{{- end }}
