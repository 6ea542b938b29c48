# SPDX-License-Identifier: Apache-2.0
# Joins the lines of the bench programs and of opponents.py: op shape m variant us bytes flops
# fraction ratio spread. A row of ours is repeated for each opponent of the same op, shape and m.
BEGIN {
    FS = OFS = "\t"
    print "row", "shape", "us", "noise", "fraction", "opponent", "ratio"
}
$1 == "op" || NF < 10 { next }
{
    key = $1 FS $2 FS $3
    theirs = $4 == "cublaslt" || $4 == "nccl" || $4 ~ /^(torch|transformers|cudnn)/
    if (theirs) {
        if (!((key, $4) in us)) {
            n[key]++
            name[key, n[key]] = $4
        }
        us[key, $4] = $5
        noise[key, $4] = $10
        next
    }
    if ($5 == "" || (key, $4) in seen)
        next
    seen[key, $4] = 1
    own[++rows] = key
    variant[rows] = $4
    own_us[rows] = $5
    fraction[rows] = $8
    spread[rows] = $10
}
function shape(key, part) {
    split(key, part, FS)
    return part[2] ",m" part[3]
}
END {
    for (i = 1; i <= rows; i++) {
        key = own[i]
        split(key, part, FS)
        row = part[1] ":" variant[i]
        if (n[key] == 0 || own_us[i] + 0 == 0)
            print row, shape(key), own_us[i], spread[i], fraction[i], "-", "-"
        for (k = 1; k <= n[key] && own_us[i] + 0 > 0; k++) {
            v = name[key, k]
            ratio = us[key, v] + 0 > 0 ? sprintf("%.3f", us[key, v] / own_us[i]) : us[key, v]
            print row, shape(key), own_us[i], spread[i], fraction[i], v, ratio
        }
    }
}
