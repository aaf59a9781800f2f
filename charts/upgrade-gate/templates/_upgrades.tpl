{{/* Upgrades from files, in ConfigMap objects, as the image upgrade-gate reads them. */}}

{{/*
The files of the value `upgrades`, each a text by its name, as JSON. Refuses what no ConfigMap can hold, and what
the gate would refuse in every pod. Null and an empty text remove a file that other values have.
*/}}
{{- define "upgrade-gate.files" -}}
{{- if not (kindIs "map" .Values.upgrades) }}
{{- printf "upgrades: this is a %s. Give each file's text under its name, gate.yaml among them" (kindOf .Values.upgrades | replace "slice" "list") | fail }}
{{- end }}
{{- $files := dict }}
{{- $bytes := 0 }}
{{- range $name, $text := .Values.upgrades }}
{{- if or (contains "/" $name) (contains "\\" $name) }}
{{- printf "upgrades: %q names a folder, and the gate reads none within its own: give the file's name alone" $name | fail }}
{{- end }}
{{- if or (not (regexMatch "^[-._a-zA-Z0-9]{1,253}$" $name)) (eq "." $name) (hasPrefix ".." $name) }}
{{- printf "upgrades: %q cannot be the name of a file in a ConfigMap. Use letters, digits, dots, dashes and underscores, at most 253, and no two dots at the beginning" $name | fail }}
{{- end }}
{{- if kindIs "map" $text }}
{{- printf "upgrades: what is under %q is a map, and must be the file's text. In a file of values, write the text after `%s: |`, because Helm sorts the keys of maps and their order counts. On the command line, put a backslash before each dot of the name, as in --set-file 'upgrades.gate\\.yaml=gate.yaml'" $name $name | fail }}
{{- else if not (or (kindIs "string" $text) (kindIs "invalid" $text)) }}
{{- printf "upgrades: what is under %q is a %s, and must be the file's text: write it after `%s: |`" $name (kindOf $text | replace "slice" "list" | replace "int64" "number" | replace "float64" "number" | replace "bool" "truth value") $name | fail }}
{{- end }}
{{- /* what is not UTF-8 is written down as this */}}
{{- if regexMatch `(^|[^\\])(\\\\)*\\ufffd` (toJson $text) }}
{{- printf "upgrades: %q is not text in UTF-8, which all files are: save it as UTF-8, or leave it out" $name | fail }}
{{- end }}
{{- if $text }}
{{- $_ := set $files $name $text }}
{{- $bytes = add $bytes (len $text) }}
{{- end }}
{{- end }}
{{- if not (hasKey $files "gate.yaml") }}
{{- fail "upgrades: there is no gate.yaml, which says what the application is" }}
{{- end }}
{{- if gt (int $bytes) 1048576 }}
{{- printf "upgrades: the files have %d bytes together, and a ConfigMap holds at most 1048576 (1 MiB). Copy them into an image instead (FROM upgrade-gate:%s, COPY upgrades /upgrades), set image.repository and image.tag to that image, and remove this value" $bytes .Chart.Version | fail }}
{{- end }}
{{- toJson $files }}
{{- end }}

{{/*
The name of the ConfigMap of a set: (list . set). That of the release has a hash of its contents in its
name, so that a pod of an earlier release, started again by a rollback, has the files of that release. That
of the hooks is made again before each run.
*/}}
{{- define "upgrade-gate.upgradesName" -}}
{{- $root := index . 0 -}}
{{- $suffix := printf "-upgrades-%s" (include "upgrade-gate.files" $root | fromJson | toJson | sha256sum | trunc 8) -}}
{{- if eq (index . 1) "hook" }}{{ $suffix = printf "-%s-upgrades" (include "upgrade-gate.engine" $root) }}{{ end -}}
{{- include "upgrade-gate.named" (list $root $suffix) -}}
{{- end }}
