{{/* Environment variables: literal, for what a hook makes is neither rolled back nor removed. */}}

{{/* For the init container of an application's own pods; used as {{ include "upgrade-gate.env" .Subcharts.gate }}. */}}
{{- define "upgrade-gate.env" -}}
{{- $gate := dict "from" . }}{{- include "upgrade-gate.resolve" $gate }}
{{- include "upgrade-gate.envOf" (dict "root" $gate.root "way" "init" "set" "release" "mode" (include "upgrade-gate.initMode" $gate.root)) -}}
{{- end }}

{{/* wait or upgrade. */}}
{{- define "upgrade-gate.initMode" -}}
{{- (.Values.initContainer).mode | default "wait" -}}
{{- end }}

{{/*
The variables of one container: root; way (job, manual, init, rollback, resume, test or status); set, whose
names it uses (release or hook); mode.
*/}}
{{- define "upgrade-gate.envOf" -}}
{{- $values := .root.Values }}
{{- $env := include "upgrade-gate.connection" . | fromYamlArray }}
{{- if ne .mode "upgrade" }}
{{- $env = append $env (dict "name" "GATE_MODE" "value" .mode) }}
{{- end }}
{{- /* the settings that mean something in this mode, with the gate's own defaults */}}
{{- $known := dict "database" "" "connectTimeout" "30s" "log" "info" "logFormat" "" }}
{{- if has .mode (list "upgrade" "plan" "sweep" "record") }}
{{- $known = merge $known (dict "lockWait" "4m" "lockLease" "30s" "batchDocuments" 2000) }}
{{- end }}
{{- if eq .mode "sweep" }}
{{- $known = merge $known (dict "skipConditions" false) }}
{{- end }}
{{- if has .mode (list "upgrade" "plan" "status") }}
{{- $known = merge $known (dict "initialise" "no" "fromVersion" "" "skipConditions" false) }}
{{- end }}
{{- range $key, $default := $known }}
{{- $value := get ($values.settings | default dict) $key }}
{{- if and $value (ne (toString $value) (toString $default)) }}
{{- $env = append $env (dict "name" (printf "GATE_%s" (snakecase $key | upper)) "value" (toString $value)) }}
{{- end }}
{{- end }}
{{- /* may be a template, so that one value moves application and gate */}}
{{- $app := include "upgrade-gate.text" (list .root "settings.appVersion" ($values.settings).appVersion) }}
{{- if $app }}
{{- $env = append $env (dict "name" "GATE_APP_VERSION" "value" $app) }}
{{- end }}
{{- /* said, although it is the default: an image that reads no files refuses it, and does not pass over them */}}
{{- if $values.upgrades }}
{{- $env = append $env (dict "name" "GATE_UPGRADES" "value" "/upgrades") }}
{{- end }}
{{- $timeout := ternary ($values.initContainer).timeout ($values.settings).timeout (eq .way "init") }}
{{- $more := dict "GATE_TIMEOUT" $timeout }}
{{- if eq .way "manual" }}
{{- $manual := $values.manual | default dict }}
{{- if has .mode (list "upgrade" "plan") }}
{{- $more = merge $more (dict "GATE_TARGET_VERSION" $manual.targetVersion) }}
{{- else if eq .mode "record" }}
{{- $record := $manual.record | default dict }}
{{- $more = merge $more (dict "GATE_RECORD_VERSION" $record.version "GATE_EXPECT_VERSION" $record.expect "GATE_DISCARD_JOURNAL" $record.discardJournal) }}
{{- end }}
{{- end }}
{{- if eq .way "status" }}{{ $_ := set $more "GATE_REPORT_FILE" "/gate-status/report.json" }}{{ end }}
{{- range $name, $value := $more }}
{{- if $value }}{{ $env = append $env (dict "name" $name "value" (toString $value)) }}{{ end }}
{{- end }}
{{- $env = concat $env (include "upgrade-gate.clusterEnv" . | fromYamlArray) }}
{{- $env = append $env (dict "name" "GATE_SETTING_NAMES" "value" (include "upgrade-gate.settingNames" .)) }}
{{- $own := list }}
{{- range $values.extraEnv }}{{ $own = append $own .name }}{{ end }}
{{- if not (or (has .way (list "init" "status")) (has "GATE_REPORT_FORMAT" $own)) }}
{{- $env = append $env (dict "name" "GATE_REPORT_FORMAT" "value" "text") }}
{{- end }}
{{- range include "upgrade-gate.extraEnv" .root | fromYamlArray }}
{{- if not (and (eq $.way "status") (eq .name "GATE_REPORT_FILE")) }}{{ $env = append $env . }}{{ end }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* The values that the containers of one way have for themselves: mongodb and resources. */}}
{{- define "upgrade-gate.group" -}}
{{- $group := get (dict "init" "initContainer" "manual" "manual" "test" "test") .way | default "hooks" }}
{{- get .root.Values $group | default dict | toYaml }}
{{- end }}

{{/* Where the connection string comes from. A missing Secret is left to the gate, whose exit helm shows. */}}
{{- define "upgrade-gate.connection" -}}
{{- $mongodb := .root.Values.mongodb | default dict }}
{{- $own := (include "upgrade-gate.group" . | fromYaml).mongodb | default dict }}
{{- if or (($own.existingSecret).name) $own.uriFile }}{{ $mongodb = $own }}{{ end }}
{{- $existing := tpl (($mongodb.existingSecret).name | default "") .root }}
{{- $given := compact (list $existing $mongodb.uri $mongodb.uriFile) }}
{{- if ne (len $given) 1 }}
{{- printf "%s: set exactly one of mongodb.existingSecret.name, mongodb.uri and mongodb.uriFile" .root.Chart.Name | fail }}
{{- end }}
{{- if $mongodb.uriFile }}
- name: GATE_MONGODB_URI_FILE
  value: {{ $mongodb.uriFile | quote }}
{{- else }}
{{- $sets := include "upgrade-gate.sets" .root | fromYaml }}
{{- $name := $existing | default (get $sets .set).secret }}
{{- $key := ternary (($mongodb.existingSecret).key | default "uri") "uri" (ne $existing "") }}
- name: GATE_MONGODB_URI
  valueFrom:
    secretKeyRef:
      name: {{ $name | quote }}
      key: {{ $key | quote }}
      optional: true
- name: GATE_MONGODB_URI_SOURCE
  value: {{ printf "key %s of Secret %s" $key $name | quote }}
{{- end }}
{{- end }}

{{/*
The operator's own. A name that a value has would be there twice, which server-side apply refuses, or be
given to an init container that must not have it.
*/}}
{{- define "upgrade-gate.extraEnv" -}}
{{- $owned := include "upgrade-gate.owned" . | fromYaml }}
{{- $seen := dict }}
{{- range .Values.extraEnv }}
{{- if hasKey $owned .name }}
{{- printf "extraEnv: %s is set by the value %s" .name (get $owned .name) | fail }}
{{- end }}
{{- if hasKey $seen .name }}
{{- printf "extraEnv: %s is there twice" .name | fail }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- .Values.extraEnv | default list | toYaml }}
{{- end }}

{{/* What messages call the settings: the values that an operator sets. */}}
{{- define "upgrade-gate.settingNames" -}}
{{- $names := dict "GATE_QUIESCE" "quiesce.workloads" "GATE_QUIESCE_TIMEOUT" "quiesce.timeout" "GATE_EVENTS" "events.enabled" "GATE_MONGODB_URI_FILE" "mongodb.uriFile" "GATE_TARGET_VERSION" "manual.targetVersion" "GATE_RECORD_VERSION" "manual.record.version" "GATE_EXPECT_VERSION" "manual.record.expect" "GATE_DISCARD_JOURNAL" "manual.record.discardJournal" }}
{{- range include "upgrade-gate.settings" . | fromYamlArray }}
{{- $_ := set $names (printf "GATE_%s" (snakecase . | upper)) (printf "settings.%s" .) }}
{{- end }}
{{- if .root.Values.upgrades }}{{ $_ := set $names "GATE_UPGRADES" "upgrades" }}{{ end }}
{{- $_ := set $names "GATE_TIMEOUT" (ternary "initContainer.timeout" "settings.timeout" (eq .way "init")) }}
{{- $_ := set $names "GATE_MODE" (ternary "initContainer.mode" "manual.mode" (eq .way "init")) }}
{{- $prefix := ternary "" (printf "%s." .root.Chart.Name) (eq (toString .root.Chart.IsRoot) "true") }}
{{- $pairs := list }}
{{- range $variable, $value := $names }}{{ $pairs = append $pairs (printf "%s=%s%s" $variable $prefix $value) }}{{ end }}
{{- join "," $pairs }}
{{- end }}

{{- define "upgrade-gate.settings" -}}
{{- list "appVersion" "database" "initialise" "fromVersion" "skipConditions" "connectTimeout" "lockWait" "lockLease" "batchDocuments" "log" "logFormat" | toYaml }}
{{- end }}

{{/* The settings that the chart sets, with the values that they come from. */}}
{{- define "upgrade-gate.owned" -}}
GATE_MODE: initContainer.mode or manual.mode
GATE_MONGODB_URI: mongodb.existingSecret or mongodb.uri
GATE_MONGODB_URI_SOURCE: mongodb.existingSecret or mongodb.uri
GATE_MONGODB_URI_FILE: mongodb.uriFile
GATE_TIMEOUT: settings.timeout or initContainer.timeout
GATE_TARGET_VERSION: manual.targetVersion
GATE_RECORD_VERSION: manual.record.version
GATE_EXPECT_VERSION: manual.record.expect
GATE_DISCARD_JOURNAL: manual.record.discardJournal
GATE_EVENTS: events.enabled
GATE_QUIESCE: quiesce.workloads
GATE_QUIESCE_TIMEOUT: quiesce.timeout
GATE_RESUME: quiesce.workloads
GATE_SETTING_NAMES: the chart itself
{{- if .Values.upgrades }}
GATE_UPGRADES: upgrades
{{- end }}
{{- range include "upgrade-gate.settings" . | fromYamlArray }}
GATE_{{ snakecase . | upper }}: settings.{{ . }}
{{- end }}
{{- range list "NAMESPACE" "POD_NAME" "POD_UID" "JOB_NAME" "JOB_UID" }}
GATE_{{ . }}: events.enabled or quiesce.workloads
{{- end }}
{{- end }}
