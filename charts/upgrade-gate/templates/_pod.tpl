{{/* The container, and the pods and Jobs around it. */}}

{{/* The init container for an application's own pods, as one entry of a list. */}}
{{- define "upgrade-gate.initContainer" -}}
{{- $gate := dict "from" . }}{{- include "upgrade-gate.resolve" $gate -}}
- {{ include "upgrade-gate.container" (dict "root" $gate.root "way" "init" "set" "release" "mode" (include "upgrade-gate.initMode" $gate.root)) | indent 2 | trim }}
{{- end }}

{{/* The volumes that the init container needs, as a list, for an application's own pods. */}}
{{- define "upgrade-gate.volumes" -}}
{{- $gate := dict "from" . }}{{- include "upgrade-gate.resolve" $gate -}}
{{- with include "upgrade-gate.volumesOf" (list $gate.root "release") | fromYamlArray }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* The volumes of a pod: (list . the set that it belongs to). */}}
{{- define "upgrade-gate.volumesOf" -}}
{{- $set := index . 1 }}
{{- with index . 0 }}
{{- $ca := (.Values.mongodb).ca | default dict }}
{{- $volumes := list }}
{{- if and $ca.secret $ca.configMap }}{{ fail "set only one of mongodb.ca.secret and mongodb.ca.configMap" }}{{ end }}
{{- $items := list (dict "key" ($ca.key | default "ca.crt") "path" (base (include "upgrade-gate.caPath" .))) }}
{{- if $ca.secret }}
{{- $volumes = append $volumes (dict "name" "mongodb-ca" "secret" (dict "secretName" (tpl $ca.secret .) "items" $items "optional" true)) }}
{{- else if $ca.configMap }}
{{- $volumes = append $volumes (dict "name" "mongodb-ca" "configMap" (dict "name" (tpl $ca.configMap .) "items" $items "optional" true)) }}
{{- end }}
{{- if .Values.upgrades }}
{{- /* where it is missing, the gate says so; a pod that cannot start tells helm nothing */}}
{{- $volumes = append $volumes (dict "name" "gate-upgrades" "configMap" (dict "name" (include "upgrade-gate.upgradesName" (list . $set)) "optional" true)) }}
{{- end }}
{{- concat $volumes (.Values.extraVolumes | default list) | toYaml }}
{{- end }}
{{- end }}

{{- define "upgrade-gate.caPath" -}}
{{- ((.Values.mongodb).ca).path | default "/etc/mongodb-ca/ca.crt" -}}
{{- end }}

{{/* Arguments as those of upgrade-gate.envOf. Its security context does without the pod's. */}}
{{- define "upgrade-gate.container" -}}
{{- $values := .root.Values -}}
{{- $group := include "upgrade-gate.group" . | fromYaml -}}
name: {{ printf "%s%s" (include "upgrade-gate.name" .root) (ternary "-status" "" (eq .way "status")) | quote }}
image: {{ include "upgrade-gate.image" .root | quote }}
{{- with ($values.image).pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- if and $group.envFrom (ne .way "init") (ne .mode "wait") }}
envFrom:
  {{- include "upgrade-gate.rendered" (list .root $group.envFrom) | nindent 2 }}
{{- end }}
env:
  {{- include "upgrade-gate.envOf" . | nindent 2 }}
{{- /* absent, as after --reuse-values, they mean the default */}}
{{- $resources := $values.resources }}
{{- if kindIs "invalid" $resources }}
{{- $resources = dict "requests" (dict "cpu" "10m" "memory" "32Mi") "limits" (dict "memory" "128Mi") }}
{{- end }}
{{- $resources = mustMergeOverwrite (deepCopy $resources) (deepCopy ($group.resources | default dict)) }}
{{- with include "upgrade-gate.cleaned" $resources | fromYaml }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "upgrade-gate.securityContext" .root | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
{{- $mounts := list }}
{{- if or (($values.mongodb).ca).secret (($values.mongodb).ca).configMap }}
{{- $mounts = append $mounts (dict "name" "mongodb-ca" "mountPath" (dir (include "upgrade-gate.caPath" .root)) "readOnly" true) }}
{{- end }}
{{- if $values.upgrades }}
{{- $mounts = append $mounts (dict "name" "gate-upgrades" "mountPath" "/upgrades" "readOnly" true) }}
{{- end }}
{{- if eq .way "status" }}
{{- $mounts = append $mounts (dict "name" "gate-status" "mountPath" "/gate-status") }}
{{- end }}
{{- with concat $mounts ($values.extraVolumeMounts | default list) }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "upgrade-gate.image" -}}
{{- $image := .Values.image | default dict }}
{{- $repository := include "upgrade-gate.text" (list . "image.repository" $image.repository) | default "ghcr.io/datalab-org/datalab-upgrade" }}
{{- /* files are read by the stock image, unless another one is named */}}
{{- if and .Values.upgrades (eq $repository "ghcr.io/datalab-org/datalab-upgrade") }}{{ $repository = "ghcr.io/datalab-org/upgrade-gate" }}{{ end }}
{{- $tag := include "upgrade-gate.tag" . }}
{{- if not (or $image.digest $tag) }}{{ printf "set image.tag or image.digest in global.upgradeGate.%s" .Chart.Name | fail }}{{ end }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $tag }}{{ end }}
{{- end }}

{{/*
The image's tag. Where neither tag nor digest is set: the version of datalab, or, for upgrades from files,
that of the stock image, which is the chart's.
*/}}
{{- define "upgrade-gate.tag" -}}
{{- $image := .Values.image | default dict }}
{{- $tag := include "upgrade-gate.text" (list . "image.tag" $image.tag) }}
{{- if and (not $tag) (not $image.digest) }}{{ $tag = ternary .Chart.Version .Chart.AppVersion (not (not .Values.upgrades)) }}{{ end }}
{{- $tag -}}
{{- end }}

{{- define "upgrade-gate.securityContext" -}}
{{- $restricted := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- include "upgrade-gate.cleaned" (mergeOverwrite $restricted (deepCopy (.Values.securityContext | default dict))) }}
{{- end }}

{{/* A pod of this chart: metadata and spec. */}}
{{- define "upgrade-gate.pod" -}}
{{- $values := .root.Values }}
{{- $set := get (include "upgrade-gate.sets" .root | fromYaml) .set -}}
{{- $labels := mustMergeOverwrite (deepCopy ($values.commonLabels | default dict)) (deepCopy ($values.podLabels | default dict)) (include "upgrade-gate.selectorLabels" .root | fromYaml) }}
{{- /* without it no policy applies, not even one that an earlier release left */}}
{{- if ($values.networkPolicy).enabled }}{{ $_ := set $labels "upgrade-gate/network-policy" $set.name }}{{ end -}}
metadata:
  labels:
    {{- toYaml $labels | nindent 4 }}
  {{- with include "upgrade-gate.annotations" (list .root $values.podAnnotations dict) }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
spec:
  {{- $spec := include "upgrade-gate.podSpec" (merge (dict "account" $set.account) .) | fromYaml }}
  {{- mustMergeOverwrite $spec (include "upgrade-gate.rendered" (list .root $values.extraPodSpec) | fromYaml) | toYaml | nindent 2 }}
{{- end }}

{{- define "upgrade-gate.podSpec" -}}
{{- $values := .root.Values -}}
{{- $hooks := $values.hooks | default dict -}}
{{- $status := and (eq .way "job") $hooks.reportStatus -}}
serviceAccountName: {{ .account | quote }}
automountServiceAccountToken: {{ ne (include "upgrade-gate.clusterEnv" . | fromYamlArray | len) 0 }}
enableServiceLinks: false
restartPolicy: Never
{{- $grace := $values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ if kindIs "invalid" $grace }}30{{ else }}{{ int $grace }}{{ end }}
{{- with include "upgrade-gate.cleaned" ($values.podSecurityContext | default dict) | fromYaml }}
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
{{- $first := include "upgrade-gate.rendered" (list .root $values.extraInitContainers) | fromYamlArray }}
{{- if $status }}
{{- $first = append $first (include "upgrade-gate.container" (merge (dict "way" "status" "mode" "status") .) | fromYaml) }}
{{- end }}
{{- if eq .way "job" }}
{{- $first = concat $first (include "upgrade-gate.rendered" (list .root $hooks.initContainers) | fromYamlArray) }}
{{- end }}
{{- with $first }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - {{ include "upgrade-gate.container" . | indent 4 | trim }}
{{- $volumes := include "upgrade-gate.volumesOf" (list .root .set) | fromYamlArray }}
{{- if $status }}{{ $volumes = append $volumes (dict "name" "gate-status" "emptyDir" dict) }}{{ end }}
{{- if eq .way "job" }}
{{- $volumes = concat $volumes (include "upgrade-gate.rendered" (list .root $hooks.volumes) | fromYamlArray) }}
{{- end }}
{{- with $volumes }}
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
{{- $hooks := .root.Values.hooks | default dict -}}
{{- $limit := $hooks.backoffLimit -}}
{{- $name := include "upgrade-gate.name" .root -}}
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
    {{- range ternary (list $name (printf "%s-status" $name)) (list $name) (and (eq .way "job") (eq (toString $hooks.reportStatus) "true")) }}
    - action: FailJob
      onExitCodes:
        containerName: {{ . | quote }}
        operator: In
        values: [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 101]
    {{- end }}
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
{{- $hook := index . 1 | fromYaml -}}
{{- $metadata := include "upgrade-gate.metadata" (list $root $root.Values.jobAnnotations $hook) | fromYaml -}}
{{- $_ := set $metadata "labels" (mustMergeOverwrite (deepCopy ($root.Values.jobLabels | default dict)) $metadata.labels) -}}
{{- toYaml $metadata }}
{{- end }}
