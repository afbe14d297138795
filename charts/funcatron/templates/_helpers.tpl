{{- define "funcatron.name" -}}
{{- if contains "funcatron" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-funcatron" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "funcatron.labels" -}}
app.kubernetes.io/name: funcatron
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "funcatron.selector" -}}
app.kubernetes.io/name: funcatron
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "funcatron.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "funcatron.brokerSecret" -}}
{{- if .Values.broker.secretName }}{{ .Values.broker.secretName }}{{ else if .Values.broker.bundled.enabled }}{{ include "funcatron.name" . }}-broker{{ else }}{{ fail "set broker.secretName to a Secret with the keys amqp and management, or broker.bundled.enabled=true to try it out" }}{{ end }}
{{- end }}

{{/* What every container of ours may do: nothing but run. */}}
{{- define "funcatron.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "funcatron.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "funcatron.commonEnv" -}}
- name: RUST_LOG
  value: {{ .Values.log.filter | quote }}
- name: FUNCATRON_LOG_FORMAT
  value: json
- name: FUNCATRON_INSTALLATION
  value: {{ .Values.installation | quote }}
- name: FUNCATRON_SYSTEM_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: FUNCATRON_POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: FUNCATRON_GATEWAY_HOSTNAME
  value: {{ .Values.gateway.hostname | quote }}
- name: FUNCATRON_GATEWAY_INTERNAL_URL
  value: http://{{ include "funcatron.name" . }}-internal.{{ .Release.Namespace }}.svc
- name: FUNCATRON_SIGNING_KEY_FILE
  value: /etc/funcatron/signing/key
- name: FUNCATRON_AMQP_URL
  valueFrom: {secretKeyRef: {name: {{ include "funcatron.brokerSecret" . }}, key: amqp}}
{{- if .Values.ledger.enabled }}
- name: FUNCATRON_LEDGER_URL
  value: http://{{ include "funcatron.name" . }}-ledger.{{ .Release.Namespace }}.svc
{{- end }}
{{- end }}

{{- define "funcatron.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 5
{{- end }}
