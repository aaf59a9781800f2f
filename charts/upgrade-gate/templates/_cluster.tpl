{{/* What Events and quiesce need of the cluster. */}}

{{/*
The variables of a container, as a list. Only Jobs have a ServiceAccount that may scale; a run that no
release follows gives the replicas back itself. A plan by hand has them too, though it scales nothing: its
Job may be told another mode by `kubectl set env`.
*/}}
{{- define "upgrade-gate.clusterEnv" -}}
{{- $values := .root.Values }}
{{- $job := has .way (list "job" "manual" "resume") }}
{{- $quiesce := and $job ($values.quiesce).workloads (has .mode (list "upgrade" "plan" "resume")) }}
{{- $events := and ($values.events).enabled (or $job (and (eq .way "init") $values.events.initContainerAccount)) }}
{{- $env := list }}
{{- $fields := dict }}
{{- if or $events $quiesce }}
{{- $fields = dict "GATE_NAMESPACE" "metadata.namespace" "GATE_POD_NAME" "metadata.name" "GATE_POD_UID" "metadata.uid" }}
{{- end }}
{{- if $events }}
{{- $env = append $env (dict "name" "GATE_EVENTS" "value" "true") }}
{{- if $job }}
{{- $_ := set $fields "GATE_JOB_NAME" "metadata.labels['batch.kubernetes.io/job-name']" }}
{{- $_ := set $fields "GATE_JOB_UID" "metadata.labels['batch.kubernetes.io/controller-uid']" }}
{{- end }}
{{- end }}
{{- if $quiesce }}
{{- $env = append $env (dict "name" "GATE_QUIESCE" "value" (tpl (join "," $values.quiesce.workloads) .root)) }}
{{- with $values.quiesce.timeout }}
{{- $env = append $env (dict "name" "GATE_QUIESCE_TIMEOUT" "value" .) }}
{{- end }}
{{- if or (eq .way "manual") (and (eq .way "job") (eq (include "upgrade-gate.engine" .root) "none")) }}
{{- $env = append $env (dict "name" "GATE_RESUME" "value" "true") }}
{{- end }}
{{- end }}
{{- range $name, $path := $fields }}
{{- $env = append $env (dict "name" $name "valueFrom" (dict "fieldRef" (dict "fieldPath" $path))) }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* Not empty where something needs the API server. */}}
{{- define "upgrade-gate.needsApi" -}}
{{- if or (.Values.events).enabled (.Values.quiesce).workloads }}true{{ end }}
{{- end }}

{{/* The names in quiesce.workloads of one kind, as a list: (list . kind). */}}
{{- define "upgrade-gate.workloads" -}}
{{- $root := index . 0 }}
{{- $kind := index . 1 }}
{{- $names := list }}
{{- range ($root.Values.quiesce).workloads }}
{{- $workload := splitList "/" (tpl . $root) }}
{{- if eq (first $workload) $kind }}{{ $names = append $names (last $workload) }}{{ end }}
{{- end }}
{{- toYaml $names }}
{{- end }}

{{/* The rules of the Role: as few as the settings need. */}}
{{- define "upgrade-gate.rules" -}}
{{- $rules := list }}
{{- if (.Values.quiesce).workloads }}
{{- range $kind := list "deployment" "statefulset" }}
{{- $names := include "upgrade-gate.workloads" (list $ $kind) | fromYamlArray }}
{{- if $names }}
{{- $rules = append $rules (dict "apiGroups" (list "apps") "resources" (list (printf "%ss" $kind)) "resourceNames" $names "verbs" (list "get")) }}
{{- $rules = append $rules (dict "apiGroups" (list "apps") "resources" (list (printf "%ss/scale" $kind)) "resourceNames" $names "verbs" (list "get" "patch")) }}
{{- end }}
{{- end }}
{{- $rules = append $rules (dict "apiGroups" (list "") "resources" (list "pods") "verbs" (list "list")) }}
{{- end }}
{{- if (.Values.events).enabled }}
{{- $rules = concat $rules (include "upgrade-gate.eventRules" . | fromYamlArray) }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{- define "upgrade-gate.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
