{{- /* Names and labels that all objects share, and what may not go together. */ -}}

{{- define "ossia.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ossia.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ossia.labels" -}}
{{ include "ossia.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "ossia.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret -}}
{{- .Values.apiKeys.existingSecret -}}
{{- else if .Values.apiKeys.create -}}
{{- printf "%s-keys" (include "ossia.name" .) -}}
{{- end -}}
{{- end -}}

{{- define "ossia.modelsClaim" -}}
{{- if .Values.models.existingClaim -}}
{{- .Values.models.existingClaim -}}
{{- else if .Values.models.create -}}
{{- printf "%s-models" (include "ossia.name" .) -}}
{{- end -}}
{{- end -}}

{{- define "ossia.isScaled" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled -}}yes{{- end -}}
{{- end -}}

{{- define "ossia.check" -}}
{{- if and .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled -}}
{{- fail "autoscaling: enable hpa or keda, not both" -}}
{{- end -}}
{{- if and (or (gt (int .Values.replicas) 1) (include "ossia.isScaled" .)) (not .Values.store.existingSecret) -}}
{{- fail "several replicas share their state in PostgreSQL: set store.existingSecret" -}}
{{- end -}}
{{- if and (not (include "ossia.keysSecret" .)) (not .Values.insecure) -}}
{{- fail "who may ask? set apiKeys.existingSecret, or apiKeys.create and apiKeys.keys, or insecure: true" -}}
{{- end -}}
{{- if and .Values.apiKeys.create (not .Values.apiKeys.keys) -}}
{{- fail "apiKeys.create needs apiKeys.keys, the file that `ossia key new` makes" -}}
{{- end -}}
{{- if and (hasPrefix "/models" .Values.model) (not (include "ossia.modelsClaim" .)) -}}
{{- fail "a model under /models needs models.existingClaim or models.create" -}}
{{- end -}}
{{- end -}}
