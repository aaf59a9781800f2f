{{/* Whose values the named templates read. */}}

{{/*
Sets `root` of a dict to the context of the gate's chart, where `from` is what the caller passed: that
context itself, or (list . "NAME") in a chart next to the gate, in an umbrella, whose own context has no
values but the global ones. Values in global.upgradeGate.NAME override those of the gate called NAME.
*/}}
{{- define "upgrade-gate.resolve" -}}
{{- if kindIs "slice" .from }}
{{- $caller := index .from 0 }}
{{- $name := index .from 1 }}
{{- $values := get (($caller.Values.global).upgradeGate | default dict) $name }}
{{- if not $values }}
{{- printf "upgrade-gate: set the values of the gate %q in global.upgradeGate.%s: a chart next to it sees no others" $name $name | fail }}
{{- end }}
{{- $root := dict "Release" $caller.Release "Capabilities" $caller.Capabilities "Template" $caller.Template "Files" $caller.Files "Subcharts" dict }}
{{- $_ := set $root "Values" (merge (dict "global" $caller.Values.global) (deepCopy $values)) }}
{{- $_ := set $root "Chart" (dict "Name" $name "AppVersion" "" "Version" "" "IsRoot" false) }}
{{- $_ := set . "root" $root }}
{{- else if not .from }}
{{- fail "upgrade-gate: this chart has no such dependency. In an umbrella, a chart next to the gate writes (list . \"gate\") instead, and the umbrella sets global.upgradeGate.gate" }}
{{- else }}
{{- with get ((.from.Values.global).upgradeGate | default dict) .from.Chart.Name }}
{{- $_ := mergeOverwrite $.from.Values (deepCopy .) }}
{{- end }}
{{- $_ := set . "root" .from }}
{{- end }}
{{- end }}

{{/* A value that may be a template, and must not become nothing: (list . its name . the value). */}}
{{- define "upgrade-gate.text" -}}
{{- $value := toString (index . 2 | default "") }}
{{- if $value }}
{{- $text := tpl $value (index . 0) | trim }}
{{- if not $text }}{{ printf "%s: %s renders to nothing" (index . 1) $value | fail }}{{ end }}
{{- $text -}}
{{- end }}
{{- end }}

{{/* A list among the values, or a text that is one, with the templates in it rendered: (list . value). */}}
{{- define "upgrade-gate.rendered" -}}
{{- $value := index . 1 }}
{{- if $value }}
{{- tpl (ternary $value (toYaml $value) (kindIs "string" $value)) (index . 0) -}}
{{- end }}
{{- end }}

{{/*
A map without the keys that are null or an empty text, on every level. Helm 4 ignores a null in the values
of a parent chart, so an empty text is how to remove a default there.
*/}}
{{- define "upgrade-gate.cleaned" -}}
{{- $cleaned := dict }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- $inner := include "upgrade-gate.cleaned" $value | fromYaml }}
{{- if or $inner (not $value) }}{{ $_ := set $cleaned $key $inner }}{{ end }}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
{{- $_ := set $cleaned $key $value }}
{{- end }}
{{- end }}
{{- toYaml $cleaned }}
{{- end }}
