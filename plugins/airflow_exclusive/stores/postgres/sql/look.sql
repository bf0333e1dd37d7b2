-- The answer without asking for anything: reads only.
{include:answer}
