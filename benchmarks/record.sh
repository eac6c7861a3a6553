#!/bin/sh
# Records every benchmark of benchmarks/results, one after the other, on a machine that does nothing else.
#
#   OSTINATO_DATA=/data sh benchmarks/record.sh                  all of them: some hours on two cores
#   OSTINATO_DATA=/data sh benchmarks/record.sh ops memory_4096  only these
#
# The catalogue goes on where it was stopped; delete its file to begin again. Peers are taken from what is installed and
# from .peers (`make test` unpacks them there); those that are absent are skipped, and the file says so.
set -eu
cd "$(dirname "$0")/.."
chosen=" $* "

record() {
    name=$1
    shift
    case "$chosen" in "  " | *" $name "*) ;; *) return 0 ;; esac
    echo "== $name"
    ostinato bench "$@" --json "benchmarks/results/$name.json"
}

[ $# -gt 0 ] || ostinato warmup

# training beside a Llama of equal parameters
record train_1024 train linear_attention gla retention hgrn2 mlstm deltanet gated_deltanet min_gru min_lstm rg_lru lru aaren s4d hyena mamba mamba2 ttt_linear ttt_mlp attention lstm gru slstm --against llama --length 1024 --batch 2 --rounds 7 --threads 2
record train_4096 train gla gated_deltanet min_gru mamba mamba2 mlstm attention --against llama --length 4096 --batch 1 --rounds 4 --threads 2 --recompute
record train_bfloat16 train gla gated_deltanet min_gru mamba mamba2 mlstm attention --against llama --length 1024 --batch 2 --rounds 5 --threads 2 --dtype bfloat16
record train_bfloat16_4096 train gla gated_deltanet min_gru mamba mamba2 mlstm attention --against llama --length 4096 --batch 1 --rounds 3 --threads 2 --dtype bfloat16
record train_lengths train gla gated_deltanet mamba attention --against llama --length 256 --length 512 --length 1024 --length 2048 --length 4096 --length 8192 --batch 1 --rounds 3 --threads 2 --plot benchmarks/results/train_lengths.svg

# training beside other libraries, each with what is here of its kind
record train_transformers train --against mamba2 --against qwen3_next --against minimax --against hf_xlstm --length 1024 --batch 2 --rounds 3 --threads 2
record train_slow_transformers train --against rwkv --against recurrent_gemma --length 256 --batch 1 --rounds 2 --threads 2
record train_slow_transformers_1024 train --against rwkv --against recurrent_gemma --length 1024 --batch 1 --rounds 1 --threads 2
record train_mamba_256 train mamba --against mamba --length 256 --batch 1 --rounds 2 --threads 2
record train_mamba_1024 train mamba --against mamba --length 1024 --batch 1 --rounds 1 --threads 2
record train_packages train --against xlstm --against mambapy --against mingru_pytorch --against titans_pytorch --against torch --length 1024 --batch 2 --rounds 3 --threads 2

# reading a prompt, and decoding after one
record prefill_16384 prefill gla mamba mamba2 gated_deltanet min_gru --against llama --length 16384 --batch 1 --rounds 2 --threads 1
record decode_8192 decode mamba mamba2 gla gated_deltanet min_gru --against mamba --against mamba2 --length 8192 --batch 1 --rounds 3 --threads 1 --compile
record decode_attention decode attention --against llama --length 8192 --batch 1 --rounds 3 --threads 1
record decode_int8 decode gla mamba2 --against none --dim 1024 --length 256 --batch 1 --rounds 3 --threads 1 --compile --quantize int8
record decode_512 decode --against transformers --against torch --against mambapy --against mingru_pytorch --length 512 --batch 1 --rounds 3 --threads 1

# memory of a training step, and of a long stream
record memory_1024 memory gla gated_deltanet min_gru mamba mamba2 mlstm attention --against llama --length 1024 --batch 1 --threads 1
record memory_4096 memory gla gated_deltanet min_gru mamba mamba2 mlstm attention --against llama --length 4096 --batch 1 --threads 1 --recompute
record stream_1M stream linear_attention gla retention hgrn2 mlstm deltanet gated_deltanet min_gru min_lstm rg_lru lru aaren s4d hyena mamba mamba2 lstm gru slstm ttt_linear ttt_mlp --dim 32 --layers 1 --length 4096 --threads 2

# single ops beside what the machine can do
record ops op linear_attention delta_rule scan selective_scan --length 2048 --batch 1 --heads 8 --key-dim 64 --value-dim 64 --rounds 7 --threads 1
record ops_bfloat16 op linear_attention delta_rule --length 2048 --batch 1 --rounds 7 --threads 1 --dtype bfloat16
record op_scan op scan --length 4096 --batch 8 --rounds 7 --threads 1

# how the cost of attention grows: dense attention first, then those that are not
record attention_lengths mixer attention attamba avey_contextualizer combiner dilated_attention document_mask_attention hierarchical_sparse_attention hyper_attention landmark_attention learnable_token_eviction longformer moba native_sparse_attention power_attention prob_sparse_attention reformer routing_attention scout segment_attention shared_key_window_attention sigmoid_window_attention streaming_attention taylor_attention vmoba --length 2048 --length 8192 --length 32768 --dim 64 --batch 1 --rounds 1 --limit 150 --threads 1

# every mixer in the same small trial
record catalogue catalogue --limit 300 --threads 1
