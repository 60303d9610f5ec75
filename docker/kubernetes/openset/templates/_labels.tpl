{{- define "openset.selector" -}}
app.kubernetes.io/name: openset
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "openset.labels" -}}
{{ include "openset.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "openset.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
