# SPDX-License-Identifier: Apache-2.0
# bash completion for unstick(1)

_unstick() {
    local verbs='demo doctor estimate plan allocconf synth replay bench hibernate wake version help'
    local options='' values=''
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]-}

    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$verbs --help --version" -- "$word")
        return
    fi

    case $verb in
    help)
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$word")
        return
        ;;
    allocconf) options='--torch --profile --auto --device-memory' ;;
    demo) options='--full --keep --dir --device' ;;
    estimate) options='--quant --dtype --resolution --batch --id --record' ;;
    synth) options='--model --quant --scale --seed --sparse' ;;
    plan)
        options='--device --request --bytes --path --working --cached --torch-reserved --torch-active'
        options+=' --torch-inactive-split --used-by-others --device-memory --granule --policy --max-wait'
        options+=' --allow-low-memory --workflow'
        ;;
    replay) options='--device --device-memory --host-memory --backup --granule --verify' ;;
    hibernate | wake) options='--state --timeout' ;;
    bench) options='--device --size --granule --runs --only --dir --share' ;;
    esac

    case $before in
    --device) values='auto cuda:0 host:2GiB' ;;
    --backup) values='auto pinned pageable file' ;;
    --profile) values='recommended seed inference-optimized memory-constrained quantization-heavy' ;;
    --model) values='flux-dev flux-schnell' ;;
    --quant)
        values='none 8-bit 4-bit 4-bit-dq'
        [[ $verb == estimate ]] && values="all $values fp8 fp32"
        ;;
    --dtype) values='bf16 fp16 fp32' ;;
    --policy) values='cost lru clear-everything' ;;
    --dir | --path)
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --request | --bytes | --working | --cached | --torch-reserved | --torch-active | --torch-inactive-split | \
        --used-by-others | --max-wait | --device-memory | --host-memory | --granule | --size | --runs | --only | \
        --scale | --seed | --timeout | --torch | --resolution | --batch | --id | --record) return ;;
    esac

    if [[ $values ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
    elif [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options --json --help" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        compopt -o filenames 2>/dev/null
    fi
}

complete -F _unstick unstick
