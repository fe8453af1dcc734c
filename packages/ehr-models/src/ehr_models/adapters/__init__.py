"""A few trained weights beside a frozen model, through peft: LoRA and its kin."""
