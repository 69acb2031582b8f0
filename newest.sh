#!/bin/sh
# Does everything hold with the newest releases of what we stand on? Called by `make newest`. Tries it in a copy of this
# tree, with no upper bound on any version; here nothing changes.
set -eu
here=$PWD
copy=$(mktemp -d)
chmod 755 "$copy" # PostgreSQL's own account goes there, too

git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
cd "$copy"

# In npm's projects what runs is renewed, not what builds: TypeScript and its like have each other for a bound.
dependencies() {
    node -p "Object.entries(require('$1/package.json').dependencies).map((each) => each.join(' ')).join('\n')"
}
for project in tests/better_auth frontend; do
    echo "Looking for the newest in $project …"
    (cd "$project" && npm install --package-lock-only --loglevel=error $(dependencies "$PWD" | sed 's/ .*/@latest/') >/dev/null)
done
sed -i -E '/^ +"[a-z0-9_-]+(\[[^]]*\])?[>=]=/{s/==/>=/;s/,<[0-9.]+//}' pyproject.toml
make --no-print-directory lock

# -i goes on after a step that fails, and says so. That the README names what is locked here is not asked there.
documented=tests/test_documents.py::test_the_versions_last_seen_green_are_the_locked_ones
PYTEST_ADDOPTS=--deselect=$documented make --no-print-directory -i test 2>&1 | tee newest.log

direct=$(sed -nE 's/^ +"([a-z0-9_-]+)(\[[^]]*\])?>=.*/\1/p' pyproject.toml | tr _ -)
python_versions() {
    for name in starlette pydantic $direct; do sed -nE "s/^$name==([^ ]+).*/$name \1/p" "$1/requirements-dev.txt"; done
}
npm_versions() {
    for project in tests/better_auth frontend; do dependencies "$1/$project" | sed "s|^|$project: |"; done
}
versions() { # of one tree: name, tab, version
    { python_versions "$1"; npm_versions "$1"; } | sed -E 's/ ([^ ]+)$/\t\1/' | sort -u
}
versions "$here" >locked
versions "$copy" >newest
printf '\n%-42s %-14s %s\n' package locked newest
join -t "$(printf '\t')" locked newest | awk -F '\t' '{ printf "%-42s %-14s %s%s\n", $1, $2, $3, $2 == $3 ? "" : "  <- newer" }'

if grep -q 'Error.*(ignored)$' newest.log; then
    printf '\nRed with the newest. The tree that was tried stays in %s, with all that it said in newest.log.\n' "$copy"
    exit 1
fi
printf '\nGreen with the newest.\n'
rm -rf "$copy"
