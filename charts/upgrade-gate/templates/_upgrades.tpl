{{/* Upgrades from files, in ConfigMap objects, as the image upgrade-gate reads them. */}}

{{/*
The name of the ConfigMap of a set: (list . set). That of the release has a hash of its contents in its
name, so that a pod of an earlier release, started again by a rollback, has the files of that release. That
of the hooks is made again before each run.
*/}}
{{- define "upgrade-gate.upgradesName" -}}
{{- $root := index . 0 -}}
{{- $suffix := printf "-upgrades-%s" ($root.Values.upgrades | toJson | sha256sum | trunc 8) -}}
{{- if eq (index . 1) "hook" }}{{ $suffix = printf "-%s-upgrades" (include "upgrade-gate.engine" $root) }}{{ end -}}
{{- include "upgrade-gate.named" (list $root $suffix) -}}
{{- end }}

{{/* Refuses what no ConfigMap can hold, and what the gate would refuse in every pod. */}}
{{- define "upgrade-gate.checkUpgrades" -}}
{{- if not (hasKey .Values.upgrades "gate.yaml") }}
{{- fail "upgrades: there is no gate.yaml, which says what the application is" }}
{{- end }}
{{- $bytes := 0 }}
{{- range $name, $text := .Values.upgrades }}{{ $bytes = add $bytes (len $text) }}{{ end }}
{{- if gt (int $bytes) 1048576 }}
{{- printf "upgrades: the files have %d bytes together, and a ConfigMap holds at most 1048576 (1 MiB). Copy them into an image instead (FROM upgrade-gate:%s, COPY upgrades /upgrades), set image.repository and image.tag to that image, and remove this value" $bytes .Chart.Version | fail }}
{{- end }}
{{- end }}
