{{- /* Safety sidecar, as a native sidecar container: it starts before the mission and stops after it. The
       mission listens on a unix socket, so that every request and response passes this container. */ -}}
{{- define "fleet.sidecar" -}}
{{- $root := .root -}}{{- $sidecar := $root.Values.safetySidecar -}}
- name: safety
  image: {{ include "fleet.image" (list $root $sidecar.image "safety") }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  restartPolicy: Always
  securityContext: {{- include "fleet.containerSecurity" $root | nindent 4 }}
  ports:
    - {name: grpc, containerPort: {{ .spec.port }}}
    - {name: pages, containerPort: {{ $sidecar.pagesPort }}}
    {{- with include "fleet.healthPorts" $root }}{{ . | nindent 4 }}{{ end }}
  env:
    - {name: BEM_SAFETY_ADDRESS, value: "[::]:{{ .spec.port }}"}
    - {name: BEM_SAFETY_PAGES_ADDRESS, value: "[::]:{{ $sidecar.pagesPort }}"}
    - {name: BEM_SAFETY_UPSTREAM, value: "unix:/run/bem/mission.sock"}
    - {name: BEM_SAFETY_KEYS_FILE, value: /run/access/keys.yaml}
    - {name: BEM_SAFETY_DRAIN_S, value: {{ .spec.drainSeconds | quote }}}
    - {name: BEM_SAFETY_AUDIT_KEY_FILE, value: /run/keys/audit.key}
    {{- with include "fleet.tlsEnv" (list $root "SAFETY") }}{{ . | nindent 4 }}{{ end }}
    {{- with include "fleet.healthEnv" (list $root "SAFETY") }}{{ . | nindent 4 }}{{ end }}
    {{- include "fleet.redisEnv" (list $root "SAFETY" "safety") | nindent 4 }}
    {{- with include "fleet.tracingEnv" (list $root "SAFETY") }}{{ . | nindent 4 }}{{ end }}
    {{- include "fleet.settingsEnv" (list $root "SAFETY" $sidecar.settings) | nindent 4 }}
  # The startup probe must not depend on the mission, which starts only after it succeeds.
  startupProbe: {grpc: {port: {{ include "fleet.probePort" (list $root .spec.port) }}}, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 600}
  livenessProbe: {grpc: {port: {{ include "fleet.probePort" (list $root .spec.port) }}}, {{ include "fleet.patience" . }}}
  # Kubernetes stops a sidecar only after the mission, and clients would keep their connections until
  # then. Therefore it drains as soon as endpoints have dropped the pod, while the mission still answers.
  lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 3; kill -TERM 1"]}}}
  resources: {{- toYaml $sidecar.resources | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /run/bem}
    - {name: tmp, mountPath: /tmp}
    - {name: audit-key, mountPath: /run/keys, readOnly: true}
    - {name: access, mountPath: /run/access, readOnly: true}
    {{- with include "fleet.tlsMount" $root }}{{ . | nindent 4 }}{{ end }}
{{- end }}
