{{/* Name of the objects of this release. Two releases of one namespace would fight for the Lease: there can be only one. */}}
{{- define "defib.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of the objects that belong to no namespace: several releases may live side by side. */}}
{{- define "defib.clusterName" -}}
{{- if eq .Release.Namespace "defib-system" -}}
{{- include "defib.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "defib.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "defib.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "defib.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "defib.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "defib.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "defib.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "defib.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the listener's certificate; empty for plain HTTP. */}}
{{- define "defib.tlsSecretName" -}}
{{- if not .Values.tls.plainHTTP -}}
{{- default (printf "%s-tls" (include "defib.fullname" .)) .Values.tls.secretName -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the authority of the certificate at publicURL; empty where the image's own must do. */}}
{{- define "defib.publicCASecretName" -}}
{{- if .Values.publicURL -}}
{{- $generated := not (or .Values.tls.plainHTTP .Values.tls.secretName) -}}
{{- default (ternary (include "defib.tlsSecretName" .) "" $generated) .Values.publicCASecretName -}}
{{- end -}}
{{- end -}}

{{/* Binds a role of this namespace to Defib's ServiceAccount: dict root, kind, name. */}}
{{- define "defib.bind" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "defib.serviceAccountName" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
