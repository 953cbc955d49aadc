"""The names that Tanuki.py had for models, and what each of them named."""

from __future__ import annotations

ALIASES = {
    "gpt-4": "openai:gpt-4",
    "gpt-4-32k": "openai:gpt-4-32k",
    "gpt-4-1106-preview": "openai:gpt-4-1106-preview",
    "gpt-4-turbo": "openai:gpt-4-1106-preview",
    "gpt-4-turbo-0125": "openai:gpt-4-0125-preview",
    "gpt-3.5-turbo-1106": "openai:gpt-3.5-turbo-1106",
    "ada-002": "openai:text-embedding-ada-002",
    "anthropic.claude-v2:1": "bedrock:anthropic.claude-v2:1",  # the one with a colon in it
    "llama_70b_chat_aws": "bedrock:meta.llama2-70b-chat-v1",
    "llama_13b_chat_aws": "bedrock:meta.llama2-13b-chat-v1",
    "aws_titan_embed_v1": "bedrock:amazon.titan-embed-text-v1",
    "Mixtral-8x7B": "together:mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Mixtral-8x7B-DPO": "together:NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO",
    "OpenHermes-2p5-Mistral": "together:teknium/OpenHermes-2p5-Mistral-7B",
    "llama13b-togetherai": "together:togethercomputer/llama-2-13b-chat",
    "openchat-3.5": "together:openchat/openchat-3.5-1210",
    "Yi-34B-Chat": "together:zero-one-ai/Yi-34B-Chat",
    "Mistral-7B-Instruct-v0.2": "together:mistralai/Mistral-7B-Instruct-v0.2",
}
