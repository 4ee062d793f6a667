"""Numbers of the paper that ours stand beside: Shuttleworth et al., arXiv:2410.21228v3, each with its place there."""

# Sec. 4 and App. F, Spearman's rho of intruders with forgetting. Fig. 7: RoBERTa-base, LoRA r = 8, one task, learning
# rates and epochs; Fig. 11: LLaMA2-7B, epochs of several ranks, two tasks.
FORGETTING_RHO = {"Fig. 7": 0.971, "Fig. 11": 0.59}
FULL_EFFECTIVE_RANK = 400.0  # App. H: "consistently above", RoBERTa-base on MNLI, width 768

# Tables 3 and 4: change of the forgetting in %, by the scale of the top intruder of each matrix.
FORGETTING_CHANGE = {
    "RoBERTa r = 1": {
        "MNLI": {0.1: -13.3, 0.3: -14.5, 0.5: -13.7, 0.7: -11.0, 0.9: -5.1},
        "QQP": {0.1: -35.5, 0.3: -35.8, 0.5: -34.1, 0.7: -28.9, 0.9: -14.6},
        "FEVER": {0.1: -10.3, 0.3: -11.8, 0.5: -11.1, 0.7: -8.7, 0.9: -3.8},
    },
    "RoBERTa r = 8": {
        "MNLI": {0.1: -24.7, 0.3: -23.1, 0.5: -19.8, 0.7: -14.5, 0.9: -5.9},
        "QQP": {0.1: -52.0, 0.3: -50.6, 0.5: -45.0, 0.7: -33.2, 0.9: -13.0},
        "FEVER": {0.1: -14.6, 0.3: -15.3, 0.5: -13.4, 0.7: -9.7, 0.9: -4.0},
    },
    "LLaMA2-7B r = 64": {
        "MetaMath": {0.3: -29.1, 0.5: -22.3, 0.7: -14.2, 0.9: -4.9},
        "Magicoder": {0.3: -12.7, 0.5: -8.3, 0.7: -4.3, 0.9: -1.4},
    },
}
