{{/* Parts of pods that several templates share. `part` is operator or api. */}}

{{/* A probe of the metrics port, unless the value has a handler of its own; nothing if the value is null. */}}
{{- define "niyanta.probe" -}}
{{- if .probe }}
{{- $own := pick .probe "httpGet" "exec" "tcpSocket" "grpc" -}}
{{ .name }}:
  {{- ternary (merge (dict "httpGet" (dict "path" .path "port" "metrics")) .probe) .probe (empty $own) | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{- define "niyanta.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The init container that migrates the database, and those of the user, which come first. */}}
{{- define "niyanta.initContainers" -}}
{{- $part := get .root.Values .part }}
{{- if or $part.extraInitContainers (eq .root.Values.migrations.mode "init") -}}
initContainers:
  {{- with $part.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if eq .root.Values.migrations.mode "init" }}
  {{- include "niyanta.migrateContainer" (dict "root" .root "security" $part.containerSecurityContext "mounts" $part.extraVolumeMounts) | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "niyanta.migrateContainer" -}}
- name: migrate
  image: {{ include "niyanta.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [niyanta, migrate]
  env:
    {{- include "niyanta.migrateEnv" .root | nindent 4 }}
  securityContext:
    {{- toYaml .security | nindent 4 }}
  resources:
    {{- toYaml .root.Values.migrations.resources | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    {{- with .mounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "niyanta.topologySpread" -}}
{{- $spread := (get .root.Values .part).topologySpread }}
{{- if $spread.constraints -}}
topologySpreadConstraints:
  {{- toYaml $spread.constraints | nindent 2 }}
{{- else if $spread.enabled -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include (ternary "niyanta.selectorLabels" "niyanta.apiSelectorLabels" (eq $.part "operator")) $.root | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{- define "niyanta.nodePlacement" -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "niyanta.tokenMount" -}}
{{- if .Values.metrics.token.existingSecret }}
- name: metrics-token
  mountPath: /etc/niyanta/metrics
  readOnly: true
{{- end }}
{{- end }}

{{- define "niyanta.tokenVolume" -}}
{{- with .Values.metrics.token }}
{{- if .existingSecret }}
- name: metrics-token
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: token
{{- end }}
{{- end }}
{{- end }}
