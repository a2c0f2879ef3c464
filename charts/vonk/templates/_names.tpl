{{- /* Labels of an object. Not app.kubernetes.io/managed-by=vonk: that marks what applications make, and is swept. */ -}}
{{- define "vonk.labels" -}}
app.kubernetes.io/name: vonk
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end -}}

{{- define "vonk.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* What pods of this chart have in common: all that the level "restricted" wants. */ -}}
{{- define "vonk.pod" -}}
restartPolicy: Never
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
volumes:
- name: tmp
  emptyDir: {sizeLimit: 32Mi}
{{- end -}}

{{- define "vonk.container" -}}
image: {{ include "vonk.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [vonk]
{{- with .Values.store.url }}
env:
- name: VONK_STORE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.secret }}
envFrom:
- secretRef: {name: {{ . }}}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
- name: tmp
  mountPath: /tmp
{{- end -}}
