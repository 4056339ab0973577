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

{{/* Labels and annotations of an object or a pod template: those of the chart, of this object and of all objects, in this
     order of precedence. Takes a dict: `root`, and optionally `component`, `labels` and `annotations`. None of the labels
     may start with niyanta.io/: the fence reserves that prefix for the pods of workloads. */}}
{{- define "niyanta.metadata" -}}
{{- $root := .root }}
{{- $labels := dict
    "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
    "app.kubernetes.io/name" (include "niyanta.name" $root)
    "app.kubernetes.io/instance" $root.Release.Name
    "app.kubernetes.io/version" $root.Chart.AppVersion
    "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- with .component }}
{{- $_ := set $labels "app.kubernetes.io/component" . }}
{{- end -}}
labels:
  {{- merge $labels (default dict .labels) $root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (default dict .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
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
{{- with .Values.image }}
{{- if not .repository }}
{{- fail "Set image.repository to the repository of Niyanta's image that your nodes pull from, e.g. --set image.repository=registry.example/team/niyanta. There is no default: build the image from the sources (docker build .) and push it to a registry of yours." }}
{{- end }}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
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

{{/* Name of the Job that migrates the database, and of the ServiceAccount and the Secret that exist only for it. */}}
{{- define "niyanta.migrateName" -}}
{{ include "niyanta.fullname" . }}-migrate
{{- end }}

{{/* "on" if the Job needs a Secret made as a hook: those of the release don't exist yet before an installation. */}}
{{- define "niyanta.hookSecretOn" -}}
{{- $own := .Values.postgres.migrate }}
{{- if and (eq .Values.migrations.mode "job") (not $own.existingSecret) (or $own.dsn .Values.postgres.dsn) }}on{{ end }}
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
