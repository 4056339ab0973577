{{- define "niyanta.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "niyanta.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else if contains (include "niyanta.name" .) .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "niyanta.name" .) | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "niyanta.selectorLabels" -}}
app.kubernetes.io/name: {{ include "niyanta.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "niyanta.apiSelectorLabels" -}}
app.kubernetes.io/name: {{ include "niyanta.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: api
{{- end }}

{{/* None of these may start with niyanta.io/: the fence reserves that prefix for the pods of workloads. */}}
{{- define "niyanta.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "niyanta.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "niyanta.operatorName" -}}
{{ include "niyanta.fullname" . }}-operator
{{- end }}

{{- define "niyanta.apiName" -}}
{{ include "niyanta.fullname" . }}-api
{{- end }}

{{- define "niyanta.adapterName" -}}
{{ include "niyanta.fullname" . }}-metrics-adapter
{{- end }}

{{/* An unreachable APIService blocks the deletion of namespaces, so there is none without an operator. */}}
{{- define "niyanta.adapterOn" -}}
{{- if and .Values.metricsAdapter.enabled (or (gt (int .Values.operator.replicas) 0) .Values.metricsAdapter.externalName) }}on{{ end }}
{{- end }}

{{/* A cluster has one server of custom.metrics.k8s.io. A second server with another version of the group would break
     the autoscalers of the first, because they use only the preferred version. */}}
{{- define "niyanta.refuseForeignAdapter" -}}
{{- range $version := list "v1beta1" "v1beta2" }}
{{- $name := printf "%s.custom.metrics.k8s.io" $version }}
{{- $found := lookup "apiregistration.k8s.io/v1" "APIService" "" $name }}
{{- if $found }}
{{- $service := default dict $found.spec.service }}
{{- if or (ne (toString $service.namespace) $.Release.Namespace) (ne (toString $service.name) (include "niyanta.adapterName" $)) }}
{{- $owner := ternary (printf "the Service %s/%s" $service.namespace $service.name) "the API server itself" (not (empty $service)) }}
{{- fail (printf "custom.metrics.k8s.io is served by %s already (APIService %s), and a cluster can have only one such server. To keep it, set metricsAdapter.enabled to false (for other ways to give HorizontalPodAutoscalers Niyanta's metrics see hpa/). To replace it, remove it first: kubectl delete apiservice %s." $owner $name $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "niyanta.apiServiceAccountName" -}}
{{- if .Values.api.serviceAccount.create }}
{{- default (include "niyanta.apiName" .) .Values.api.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.api.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "niyanta.serviceAccountName" -}}
{{- default (include "niyanta.operatorName" .) .Values.serviceAccount.name }}
{{- end }}

{{/* The operator's user name in admission requests. */}}
{{- define "niyanta.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "niyanta.serviceAccountName" . }}
{{- end }}

{{- define "niyanta.image" -}}
{{- if .Values.image.digest }}
{{- .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}
{{- .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "niyanta.dsnSecretName" -}}
{{- if and .Values.postgres.dsn .Values.postgres.existingSecret }}
{{- fail "Set postgres.dsn or postgres.existingSecret, not both." }}
{{- else if .Values.postgres.existingSecret }}
{{- .Values.postgres.existingSecret }}
{{- else if .Values.postgres.dsn }}
{{- printf "%s-postgres" (include "niyanta.fullname" .) }}
{{- else }}
{{- fail "Niyanta needs a Postgres database: set postgres.existingSecret to the name of a Secret with the connection string under postgres.key (default `dsn`), or set postgres.dsn to the connection string." }}
{{- end }}
{{- end }}

{{/* Secret with the connection string of `part` (api or migrate); empty if that part uses the operator's. */}}
{{- define "niyanta.ownSecretName" -}}
{{- $own := get .root.Values.postgres .part }}
{{- if and $own.dsn $own.existingSecret }}
{{- fail (printf "Set postgres.%s.dsn or postgres.%s.existingSecret, not both." .part .part) }}
{{- else if $own.existingSecret }}
{{- $own.existingSecret }}
{{- else if $own.dsn }}
{{- printf "%s-postgres-%s" (include "niyanta.fullname" .root) .part }}
{{- end }}
{{- end }}

{{/* Variable with the connection string of `part`: its own, else the operator's. */}}
{{- define "niyanta.dsnEnv" -}}
{{- $secret := include "niyanta.ownSecretName" . }}
- name: {{ if $secret }}NIYANTA_{{ upper .part }}_DSN{{ else }}NIYANTA_DSN{{ end }}
  valueFrom:
    secretKeyRef:
      name: {{ default (include "niyanta.dsnSecretName" .root) $secret }}
      key: {{ ternary (get .root.Values.postgres .part).key .root.Values.postgres.key (ne $secret "") }}
{{- end }}

{{/* Environment of `niyanta migrate`. */}}
{{- define "niyanta.migrateEnv" -}}
{{ include "niyanta.dsnEnv" (dict "root" . "part" "migrate") }}
{{- with .Values.postgres.api.role }}
- name: NIYANTA_DOOR_ROLE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.postgres.operatorRole }}
- name: NIYANTA_OPERATOR_ROLE
  value: {{ . | quote }}
{{- end }}
{{ include "niyanta.commonEnv" . }}
{{- end }}

{{/* Empty if there are no replicas. */}}
{{- define "niyanta.replicasSecretName" -}}
{{- with .Values.postgres.replicas }}
{{- if and .dsns .existingSecret }}
{{- fail "Set postgres.replicas.dsns or postgres.replicas.existingSecret, not both." }}
{{- else if .existingSecret }}
{{- .existingSecret }}
{{- else if .dsns }}
{{- printf "%s-postgres-replicas" (include "niyanta.fullname" $) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Formats a number for a setting: helm reads 1000000 as the float 1e+06, which integer settings don't accept. */}}
{{- define "niyanta.settingValue" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* Environment of every process: namespace, identity and settings. */}}
{{- define "niyanta.commonEnv" -}}
- name: NIYANTA_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: NIYANTA_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: NIYANTA_{{ snakecase $name | upper }}
  value: {{ include "niyanta.settingValue" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "niyanta.tokenEnv" -}}
{{- if .Values.metrics.token.existingSecret }}
- name: NIYANTA_METRICS_TOKEN_FILE
  value: /etc/niyanta/metrics/token
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

{{- define "niyanta.env" -}}
- name: NIYANTA_DSN
  valueFrom:
    secretKeyRef:
      name: {{ include "niyanta.dsnSecretName" . }}
      key: {{ .Values.postgres.key }}
{{ include "niyanta.commonEnv" . }}
{{- include "niyanta.tokenEnv" . }}
- name: NIYANTA_SERVICE_ACCOUNT
  value: {{ include "niyanta.serviceAccountName" . }}
- name: NIYANTA_DEFAULT_CUSTOMER
  value: {{ .Values.defaultCustomer.enabled | quote }}
- name: NIYANTA_REQUIRE_NAMESPACE_LABEL
  value: {{ .Values.policies.requireNamespaceLabel | quote }}
- name: NIYANTA_REQUIRE_POLICIES
  value: {{ .Values.fence.enabled | quote }}
- name: NIYANTA_REQUIRE_AUTHORS_POLICY
  value: {{ ternary "true" "false" (ne (include "niyanta.authorsPolicyOn" .) "") | quote }}
- name: NIYANTA_ENABLE_SCALING
  value: {{ .Values.scaling.enabled | quote }}
- name: NIYANTA_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
- name: NIYANTA_METRICS_ADAPTER
  value: {{ ternary "true" "false" (eq (include "niyanta.adapterOn" .) "on") | quote }}
- name: NIYANTA_METRICS_ADAPTER_PORT
  value: {{ .Values.metricsAdapter.port | quote }}
- name: NIYANTA_METRICS_ADAPTER_SERVICE
  value: {{ include "niyanta.adapterName" . }}
{{- with .Values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "niyanta.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* "true" if the policy niyanta-authors is part of the release. */}}
{{- define "niyanta.authorsPolicyOn" -}}
{{- if and .Values.fence.enabled (or .Values.policies.authors.requirePodCreate .Values.policies.authors.requireServiceAccountUse) }}true{{ end }}
{{- end }}

{{/* Peers of a NetworkPolicy that may scrape: those given, else the pods of the release's namespace. */}}
{{- define "niyanta.scrapers" -}}
{{- with . }}
{{- toYaml . }}
{{- else -}}
- podSelector: {}
{{- end }}
{{- end }}

{{/* Egress rule of a NetworkPolicy: ports, and peers if any are given. */}}
{{- define "niyanta.egress" -}}
- ports:
    {{- range .ports }}
    {{- $port := int . }}
    {{- range $.protocols }}
    - port: {{ $port }}
      protocol: {{ . }}
    {{- end }}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
