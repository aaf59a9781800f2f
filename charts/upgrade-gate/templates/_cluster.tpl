{{/* What Events and quiesce need of the cluster. */}}

{{/*
The variables of a container, as a list. Only the Jobs have a ServiceAccount that may do it; a run that no
release follows gives the replicas back itself.
*/}}
{{- define "upgrade-gate.clusterEnv" -}}
{{- $values := .root.Values }}
{{- $quiesce := and ($values.quiesce).workloads (has .mode (list "upgrade" "resume")) }}
{{- $env := list }}
{{- if has .way (list "job" "manual" "resume") }}
{{- if ($values.events).enabled }}
{{- $env = append $env (dict "name" "GATE_EVENTS" "value" "true") }}
{{- range $name, $label := dict "GATE_JOB_NAME" "job-name" "GATE_JOB_UID" "controller-uid" }}
{{- $env = append $env (dict "name" $name "valueFrom" (dict "fieldRef" (dict "fieldPath" (printf "metadata.labels['batch.kubernetes.io/%s']" $label)))) }}
{{- end }}
{{- end }}
{{- if $quiesce }}
{{- $env = append $env (dict "name" "GATE_QUIESCE" "value" (tpl (join "," $values.quiesce.workloads) .root)) }}
{{- with $values.quiesce.timeout }}
{{- $env = append $env (dict "name" "GATE_QUIESCE_TIMEOUT" "value" .) }}
{{- end }}
{{- if and (eq .mode "upgrade") (or (eq .way "manual") (eq (include "upgrade-gate.engine" .root) "none")) }}
{{- $env = append $env (dict "name" "GATE_RESUME" "value" "true") }}
{{- end }}
{{- $env = append $env (dict "name" "GATE_POD_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) }}
{{- end }}
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
{{- $rules = append $rules (dict "apiGroups" (list "events.k8s.io") "resources" (list "events") "verbs" (list "create" "patch")) }}
{{- end }}
{{- toYaml $rules }}
{{- end }}
