{{/* Environment variables of the processes. Each is one YAML list, in which a variable of the user's replaces that of the
     chart: a list with two entries of one name is refused by server-side apply. */}}
{{- define "niyanta.env" -}}
{{- $names := dict }}
{{- range .extra }}
{{- $_ := set $names .name true }}
{{- end }}
{{- $kept := list }}
{{- range fromYamlArray .own }}
{{- if not (hasKey $names .name) }}
{{- $kept = append $kept . }}
{{- end }}
{{- end }}
{{- concat $kept .extra | toYaml }}
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
{{- include "niyanta.env" (dict "own" (include "niyanta.ownMigrateEnv" .) "extra" .Values.migrations.extraEnv) }}
{{- end }}

{{- define "niyanta.ownMigrateEnv" -}}
{{- if include "niyanta.hookSecretOn" . }}
- name: NIYANTA_MIGRATE_DSN
  valueFrom:
    secretKeyRef:
      name: {{ include "niyanta.migrateName" . }}
      key: dsn
{{- else }}
{{- include "niyanta.dsnEnv" (dict "root" . "part" "migrate") }}
{{- end }}
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

{{- define "niyanta.operatorEnv" -}}
{{- include "niyanta.env" (dict "own" (include "niyanta.ownOperatorEnv" .) "extra" .Values.operator.extraEnv) }}
{{- end }}

{{- define "niyanta.ownOperatorEnv" -}}
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
{{- end }}

{{- define "niyanta.apiEnv" -}}
{{- include "niyanta.env" (dict "own" (include "niyanta.ownApiEnv" .) "extra" .Values.api.extraEnv) }}
{{- end }}

{{- define "niyanta.ownApiEnv" -}}
{{- include "niyanta.dsnEnv" (dict "root" . "part" "api") }}
{{ include "niyanta.commonEnv" . }}
{{- include "niyanta.tokenEnv" . }}
{{- with include "niyanta.replicasSecretName" . }}
- name: NIYANTA_REPLICA_DSNS
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.postgres.replicas.key }}
{{- end }}
- name: NIYANTA_API_PORT
  value: {{ .Values.api.port | quote }}
- name: NIYANTA_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
{{- if .Values.api.tls.existingSecret }}
- name: NIYANTA_API_TLS_CERT
  value: /etc/niyanta/tls/tls.crt
- name: NIYANTA_API_TLS_KEY
  value: /etc/niyanta/tls/tls.key
{{- end }}
{{- end }}
