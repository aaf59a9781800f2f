{{/* Names, and the labels that go with them. */}}

{{/* The chart's name, or its alias, as a name that Kubernetes accepts. */}}
{{- define "upgrade-gate.name" -}}
{{- .Values.nameOverride | default .Chart.Name | lower | replace "_" "-" | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* A dependency's name always has both parts, so that it never meets one of its parent's. */}}
{{- define "upgrade-gate.fullname" -}}
{{- $name := include "upgrade-gate.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if and .Chart.IsRoot (contains $name .Release.Name) -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end }}

{{/* The full name with a suffix: (list . suffix). */}}
{{- define "upgrade-gate.named" -}}
{{- include "upgrade-gate.fitted" (list (include "upgrade-gate.fullname" (index . 0)) (index . 1)) -}}
{{- end }}

{{/*
A name with a suffix, (list name suffix), in the 52 characters that a CronJob's name may have. One that is
cut gets a hash, so that two long names that begin alike stay two.
*/}}
{{- define "upgrade-gate.fitted" -}}
{{- $name := index . 0 -}}
{{- $suffix := index . 1 -}}
{{- if gt (add (len $name) (len $suffix)) 52 -}}
{{- $name = printf "%s-%s" ($name | trunc (int (sub 43 (len $suffix))) | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name }}{{ $suffix -}}
{{- end }}

{{/*
The beginning of a name, (list . suffix), that Argo CD completes by up to 27 characters, as in
`1234567-postsync-1800000000`: a Job's name may have 63.
*/}}
{{- define "upgrade-gate.begun" -}}
{{- $more := repeat 16 "." -}}
{{- include "upgrade-gate.named" (list (index . 0) (print (index . 1) $more)) | trimSuffix $more -}}
{{- end }}

{{/* helm, argocd or none. */}}
{{- define "upgrade-gate.engine" -}}
{{- (.Values.hooks).engine | default "helm" -}}
{{- end }}

{{/* The labels by which the gate's pods are found. */}}
{{- define "upgrade-gate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "upgrade-gate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: upgrade-gate
{{- end }}

{{/* The labels of every object. Those of the chart override commonLabels. */}}
{{- define "upgrade-gate.labels" -}}
{{- $labels := deepCopy (.Values.commonLabels | default dict) }}
{{- $labels = mustMergeOverwrite $labels (include "upgrade-gate.selectorLabels" . | fromYaml) }}
{{- with include "upgrade-gate.version" . }}{{ $_ := set $labels "app.kubernetes.io/version" . }}{{ end }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" (toString .Release.Service) }}
{{- $_ := set $labels "helm.sh/chart" (include "upgrade-gate.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version)) }}
{{- toYaml $labels }}
{{- end }}

{{/*
The version of the application: that of the image, which is datalab's only where the image is the chart's;
the stock image belongs to no application.
*/}}
{{- define "upgrade-gate.version" -}}
{{- $version := include "upgrade-gate.tag" . -}}
{{- if .Values.upgrades }}{{ $version = include "upgrade-gate.text" (list . "settings.appVersion" (.Values.settings).appVersion) }}{{ end -}}
{{- include "upgrade-gate.labelValue" $version -}}
{{- end }}

{{/* A text as the value of a label: at most 63 characters of a few kinds. */}}
{{- define "upgrade-gate.labelValue" -}}
{{- regexReplaceAll "[^-A-Za-z0-9_.]" . "_" | trunc 63 | trimAll "-_." -}}
{{- end }}

{{/* The annotations of an object: (list . those of its kind . what makes it a hook), both as maps. */}}
{{- define "upgrade-gate.annotations" -}}
{{- $root := index . 0 }}
{{- $annotations := mustMergeOverwrite (deepCopy ($root.Values.commonAnnotations | default dict)) (deepCopy (index . 1 | default dict)) }}
{{- with index . 2 }}
{{- $annotations = mustMergeOverwrite $annotations (deepCopy (($root.Values.hooks).annotations | default dict)) . }}
{{- end }}
{{- if $annotations }}{{ toYaml $annotations }}{{ end }}
{{- end }}

{{/* Labels and annotations of an object of the release: (list . annotations of its kind . what makes it a hook). */}}
{{- define "upgrade-gate.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "upgrade-gate.labels" $root | nindent 2 }}
  {{- if index . 2 }}
  upgrade-gate/hooks: {{ include "upgrade-gate.engine" $root }}
  {{- end }}
{{- with include "upgrade-gate.annotations" . }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
What the pods of one way share: a ServiceAccount, a Role, a NetworkPolicy and perhaps a Secret. Hooks run
before the release's own objects are there, and so they have a set of their own, as hooks.
*/}}
{{- define "upgrade-gate.sets" -}}
{{- $engine := include "upgrade-gate.engine" . -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{- $hooks := (.Values.hooks).serviceAccount | default dict -}}
{{- $create := ternary true $account.create (kindIs "invalid" $account.create) -}}
{{- /* an account of the parent chart is not there yet when the first hook runs */}}
{{- $createHooks := ternary $hooks.create (or $create (not .Chart.IsRoot)) (kindIs "bool" $hooks.create) -}}
{{- $suffixes := dict "release" "" -}}
{{- if ne $engine "none" }}{{ $_ := set $suffixes "hook" (printf "-%s" $engine) }}{{ end -}}
{{- range $kind, $suffix := $suffixes }}
{{- $name := include "upgrade-gate.named" (list $ $suffix) }}
{{ $kind }}:
  name: {{ $name | quote }}
  secret: {{ include "upgrade-gate.named" (list $ (printf "%s-mongodb" $suffix)) | quote }}
  {{- if eq $kind "release" }}
  createAccount: {{ $create }}
  account: {{ $account.name | default (ternary $name "default" $create) | quote }}
  {{- else }}
  createAccount: {{ $createHooks }}
  {{- if $hooks.name }}
  account: {{ tpl $hooks.name $ | quote }}
  {{- else if not $createHooks }}
  account: {{ $account.name | default "default" | quote }}
  {{- else if and $create $account.name }}
  account: {{ include "upgrade-gate.fitted" (list $account.name $suffix) | quote }}
  {{- else }}
  account: {{ $name | quote }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
