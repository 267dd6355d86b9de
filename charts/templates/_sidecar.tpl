{{- /* The safety sidecar, a native one: up before the mission, down after it. The mission has a unix
       socket only, so this container's port is the only way in, and every output passes it. */ -}}
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
  env:
    - {name: BEM_SAFETY_ADDRESS, value: "0.0.0.0:{{ .spec.port }}"}
    - {name: BEM_SAFETY_PAGES_ADDRESS, value: "0.0.0.0:{{ $sidecar.pagesPort }}"}
    - {name: BEM_SAFETY_UPSTREAM, value: "unix:/run/bem/mission.sock"}
    - {name: BEM_SAFETY_DRAIN_S, value: {{ .spec.drainSeconds | quote }}}
    {{- include "fleet.redisEnv" (list $root "SAFETY") | nindent 4 }}
    {{- include "fleet.settingsEnv" (list $root "SAFETY" $sidecar.settings) | nindent 4 }}
  # Alive at once: it must not wait for the mission, which starts after it.
  startupProbe: {grpc: {port: {{ .spec.port }}}, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 120}
  livenessProbe: {grpc: {port: {{ .spec.port }}}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3}
  # It would be ended only after the mission, and its clients would keep their connections meanwhile:
  # once endpoints have forgotten the pod they are sent away, while the mission still answers.
  lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 3; kill -TERM 1"]}}}
  resources: {{- toYaml $sidecar.resources | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /run/bem}
    - {name: tmp, mountPath: /tmp}
{{- end }}
