# What the scripts of a release share. Sourced, never run.

. "$(dirname "${BASH_SOURCE[0]}")/../tests/cluster/lib.sh"
export PATH=$bin:$PATH
cd "$repository"
# field FILE NAME: the first `name: value` or `name = "value"` at the beginning of a line.
field() { sed -n "s/^$2 *[:=] *//p" "$1" | head -n 1 | tr -d '"'; }
version=$(field Cargo.toml version)
# of datalab, to which the image datalab-upgrade belongs
app_version=$(field charts/upgrade-gate/Chart.yaml appVersion)
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
esac
dist=$(realpath -m "${DIST:-target/dist}")
# Whatever records a time records that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# image_version IMAGE
image_version() { if [ "$1" = datalab-upgrade ]; then echo "$app_version"; else echo "$version"; fi; }
# Every file of a release but the checksums and the signatures.
artifacts() { (cd "$dist" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' ! -name '*.sigstore.json' -printf '%P\n' | sort); }
