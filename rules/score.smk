rule score:
    input:
        dataset=ask("eval_dataset"),
        task=ask("eval_task_file"),
        requests="results/{model}/requests/{eval}/requests.jsonl.zst",
        generations="results/{model}/{calibration}/{variant}/{eval}/generations.jsonl.zst",
    output:
        scores="results/{model}/{calibration}/{variant}/{eval}/scores.jsonl.zst",
        metrics="results/{model}/{calibration}/{variant}/{eval}/metrics.json",
    log:
        "logs/{model}/{calibration}/{variant}/{eval}/score.log",
    benchmark:
        "results/{model}/benchmarks/score/{calibration}/{variant}/{eval}.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        spec=spec("evals", "eval"),
        code=ask("score_code"),
    shell:
        "python -m rac score --spec {params.spec:q} --dataset {input.dataset:q}"
        " --requests {input.requests:q} --generations {input.generations:q}"
        " --code {params.code} --scores {output.scores:q} --metrics {output.metrics:q}"
        " > {log:q} 2>&1"
