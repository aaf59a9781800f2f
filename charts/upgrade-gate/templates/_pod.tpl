{{/* The container, and the pods and Jobs around it. */}}

{{/* The init container for an application's own pods, as one entry of a list. */}}
{{- define "upgrade-gate.initContainer" -}}
- {{ include "upgrade-gate.container" (dict "root" . "way" "init" "set" "release" "mode" (include "upgrade-gate.initMode" .)) | indent 2 | trim }}
{{- end }}

{{/* The volumes of extraVolumes, as a list, for an application's own pods. */}}
{{- define "upgrade-gate.volumes" -}}
{{- with .Values.extraVolumes }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Arguments as those of upgrade-gate.envOf. Its security context does without the pod's. */}}
{{- define "upgrade-gate.container" -}}
{{- $values := .root.Values -}}
name: {{ include "upgrade-gate.name" .root | quote }}
image: {{ include "upgrade-gate.image" .root | quote }}
{{- with ($values.image).pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
env:
  {{- include "upgrade-gate.envOf" . | nindent 2 }}
{{- /* absent, as after --reuse-values, they mean the default */}}
{{- $resources := $values.resources }}
{{- if kindIs "invalid" $resources }}
{{- $resources = dict "requests" (dict "cpu" "10m" "memory" "32Mi") "limits" (dict "memory" "128Mi") }}
{{- end }}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "upgrade-gate.securityContext" .root | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with $values.extraVolumeMounts }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "upgrade-gate.image" -}}
{{- $image := .Values.image | default dict }}
{{- $repository := $image.repository | default "ghcr.io/datalab-org/datalab-upgrade" }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "upgrade-gate.securityContext" -}}
{{- $restricted := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- $context := dict }}
{{- range $key, $value := mergeOverwrite $restricted (deepCopy (.Values.securityContext | default dict)) }}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $context $key $value }}{{ end }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* A pod of this chart: metadata and spec. */}}
{{- define "upgrade-gate.pod" -}}
{{- $values := .root.Values }}
{{- $set := get (include "upgrade-gate.sets" .root | fromYaml) .set -}}
metadata:
  labels:
    {{- mustMergeOverwrite (deepCopy ($values.podLabels | default dict)) (include "upgrade-gate.selectorLabels" .root | fromYaml) | toYaml | nindent 4 }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "upgrade-gate.podSpec" (merge (dict "account" $set.account) .) | nindent 2 }}
{{- end }}

{{- define "upgrade-gate.podSpec" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ .account | quote }}
automountServiceAccountToken: {{ ne (include "upgrade-gate.clusterEnv" . | fromYamlArray | len) 0 }}
enableServiceLinks: false
restartPolicy: Never
terminationGracePeriodSeconds: 30
{{- with $values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - {{ include "upgrade-gate.container" . | indent 4 | trim }}
{{- with $values.extraVolumes }}
volumes:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
The spec of a Job: arguments as those of the pod, and perhaps its deadline and time to live. An eviction is
no failure; what a repetition cannot help ends the Job at once: the exit codes that the gate calls final,
"old pods did not stop or came back", and a panic.
*/}}
{{- define "upgrade-gate.jobSpec" -}}
{{- $limit := (.root.Values.hooks).backoffLimit -}}
backoffLimit: {{ if kindIs "invalid" $limit }}3{{ else }}{{ int $limit }}{{ end }}
{{- with .deadline }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- with .ttl }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    - action: FailJob
      onExitCodes:
        containerName: {{ include "upgrade-gate.name" .root | quote }}
        operator: In
        values: [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 101]
template:
  {{- include "upgrade-gate.pod" . | nindent 2 }}
{{- end }}

{{- define "upgrade-gate.deadline" -}}
{{- include "upgrade-gate.seconds" ((.Values.hooks).timeout | default "4m30s") -}}
{{- end }}

{{- define "upgrade-gate.ttl" -}}
{{- include "upgrade-gate.seconds" ((.Values.hooks).ttl | default "24h") -}}
{{- end }}

{{/* A duration like 1h30m in seconds. */}}
{{- define "upgrade-gate.seconds" -}}
{{- $seconds := 0 }}
{{- range $unit, $length := dict "h" 3600 "m" 60 "s" 1 }}
{{- range regexFindAll (printf "[0-9]+%s" $unit) $ -1 }}
{{- $seconds = add $seconds (mul (trimSuffix $unit . | atoi) $length) }}
{{- end }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* The labels and annotations of a Job: (list . what makes it a hook). */}}
{{- define "upgrade-gate.jobMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- mustMergeOverwrite (deepCopy ($root.Values.jobLabels | default dict)) (include "upgrade-gate.labels" $root | fromYaml) | toYaml | nindent 2 }}
{{- with mustMergeOverwrite (deepCopy ($root.Values.jobAnnotations | default dict)) (index . 1 | fromYaml) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
