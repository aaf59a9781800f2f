{{/* What makes an object a hook, and of which kind. */}}

{{/* Annotations of the upgrade's Job. */}}
{{- define "upgrade-gate.jobHook" -}}
{{- $engine := include "upgrade-gate.engine" . -}}
{{- if eq $engine "helm" }}
{{- $events := list "pre-upgrade" }}
{{- if include "upgrade-gate.onInstall" . }}{{ $events = prepend $events "pre-install" }}{{ end }}
{{- include "upgrade-gate.helmHook" (list . (join "," $events)) }}
{{- else if eq $engine "argocd" -}}
argocd.argoproj.io/hook: {{ include "upgrade-gate.argoPhase" . }}
argocd.argoproj.io/hook-delete-policy: HookSucceeded
argocd.argoproj.io/sync-wave: {{ include "upgrade-gate.argoWave" . | quote }}
{{- end }}
{{- end }}

{{/* Annotations of a Job, or a test, that Helm runs at these events, and prints the output of: (list . events). */}}
{{- define "upgrade-gate.helmHook" -}}
helm.sh/hook: {{ index . 1 }}
helm.sh/hook-weight: {{ include "upgrade-gate.weight" (index . 0) | quote }}
helm.sh/hook-delete-policy: before-hook-creation
helm.sh/hook-output-log-policy: hook-failed,hook-succeeded
{{- end }}

{{/* Annotations of what the Job needs: (list . whether it is a secret, which must not stay). */}}
{{- define "upgrade-gate.needsHook" -}}
{{- $root := index . 0 }}
{{- $secret := index . 1 }}
{{- $engine := include "upgrade-gate.engine" $root }}
{{- if eq $engine "helm" }}
{{- $events := list "pre-upgrade" }}
{{- if include "upgrade-gate.onInstall" $root }}{{ $events = prepend $events "pre-install" }}{{ end }}
{{- if ($root.Values.hooks).onRollback }}{{ $events = append $events "pre-rollback" }}{{ end -}}
helm.sh/hook: {{ join "," $events }}
helm.sh/hook-weight: {{ sub (include "upgrade-gate.weight" $root) 10 | quote }}
helm.sh/hook-delete-policy: before-hook-creation{{ if $secret }},hook-succeeded,hook-failed{{ end }}
{{- else if eq $engine "argocd" -}}
argocd.argoproj.io/hook: {{ include "upgrade-gate.argoPhase" $root }}
{{- /* without a policy it would be deleted before each sync; one that kubectl starts then takes it for made */}}
argocd.argoproj.io/hook-delete-policy: {{ if $secret }}BeforeHookCreation,HookSucceeded,{{ end }}HookFailed
argocd.argoproj.io/sync-wave: {{ sub (include "upgrade-gate.argoWave" $root) 10 | quote }}
{{- end }}
{{- end }}

{{/*
The annotations of an object of the application's own chart that the Job needs, as its Secret with the
connection string, and that is there for the Job only.
*/}}
{{- define "upgrade-gate.hookSecret" -}}
{{- $gate := dict "from" . }}{{- include "upgrade-gate.resolve" $gate }}
{{- include "upgrade-gate.needsHook" (list $gate.root true) }}
{{- end }}

{{/* The Job's weight among hooks. */}}
{{- define "upgrade-gate.weight" -}}
{{- int (.Values.hooks).weight -}}
{{- end }}

{{/* Not empty where the Job also runs at the first installation. */}}
{{- define "upgrade-gate.onInstall" -}}
{{- $onInstall := (.Values.hooks).onInstall }}
{{- if or $onInstall (kindIs "invalid" $onInstall) }}true{{ end }}
{{- end }}

{{/* Where MongoDB comes up in the same sync, the Job cannot be before all of it. */}}
{{- define "upgrade-gate.argoPhase" -}}
{{- ternary "PreSync" "Sync" (eq (include "upgrade-gate.onInstall" .) "true") -}}
{{- end }}

{{- define "upgrade-gate.argoWave" -}}
{{- $wave := ((.Values.hooks).argocd).syncWave -}}
{{- if include "upgrade-gate.onInstall" . }}{{ include "upgrade-gate.weight" . }}{{ else if kindIs "invalid" $wave }}1{{ else }}{{ int $wave }}{{ end -}}
{{- end }}
